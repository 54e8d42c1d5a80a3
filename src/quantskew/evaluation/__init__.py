"""Every variant on the test set: its answers, and the loss around it."""
