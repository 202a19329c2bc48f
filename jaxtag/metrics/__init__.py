"""Metrics: pure functions of arrays or texts, usable without the rest of jaxtag."""
