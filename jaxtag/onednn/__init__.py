"""oneDNN's convolutions for CPUs: the C library, and how XLA's programs call it."""
