"""Quantization: the grid, ranges, rounding, quantization-aware training, and packed files."""
