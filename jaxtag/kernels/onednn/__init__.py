"""oneDNN's convolutions and batch normalisation for CPUs, and how XLA's programs call them."""
