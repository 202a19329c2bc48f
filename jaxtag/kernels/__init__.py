"""Layers and primitives with one implementation per platform."""
