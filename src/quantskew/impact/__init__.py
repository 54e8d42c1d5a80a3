"""How quantization acts on weights, logits, gradients and curvature: functions of tensors."""

MAX_PRODUCTS = 100
"""Most Hessian products that are spent on the largest eigenvalue of a group."""
