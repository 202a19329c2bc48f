"""jaxtag: train image taggers and captioners in JAX/Flax, from one core to a TPU pod."""

__version__ = "0.1.0"
