"""Which people a quantized image classifier leaves behind, why, and what it costs to fix it."""
