"""How quantization acts on weights, logits, gradients and curvature: functions of tensors."""
