"""Evaluation metrics: pure functions of NumPy arrays or texts."""
