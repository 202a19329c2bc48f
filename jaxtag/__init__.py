"""jaxtag: train image taggers and captioners in JAX/Flax, from one core to a TPU pod."""

import time

__version__ = "0.1.0"

STARTED = time.perf_counter()  # about when the process of a command began
