"""Compiling for hardware that is not there, and reading what the compiler made of it."""
