"""Ahead-of-time compilation for other hardware, and analysis of the compiled program."""
