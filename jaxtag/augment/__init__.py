"""Augmentation on the device, inside the jitted step: pure functions of (images, key).

Every example draws from a key of its own, folded from the step's key with its position in the
global batch: the same numbers on any mesh. JAX's default partitionable Threefry lets each
device generate its own share of them without communication.

`pipeline` runs the parts in order: `geometry`, `color`, `randaugment` and custom functions on uint8
images, then `erasing` and `mixing` on normalized ones.
"""

from jaxtag.augment.pipeline import Augmentation, normalize
from jaxtag.augment.rng import example_keys

__all__ = ["Augmentation", "example_keys", "normalize"]
