"""One loop for training, quantization-aware training and fine-tuning."""
