"""The impact flow: weights, logits, gradients and curvature as pure functions of tensors."""
