"""oneDNN's convolutions and batch normalization for CPUs, and how XLA's programs call them."""
