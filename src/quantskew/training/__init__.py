"""Training of networks: one loop for fp32 networks, quantization-aware training and fine-tuning."""
