"""Array types for annotations.

The public functions of models and augmentation take NumPy arrays as well as JAX's: outside of a
jitted function both are common.
"""

import jax
import numpy as np
from jaxtyping import Float, UInt8

AnyArray = jax.Array | np.ndarray
Images = Float[AnyArray, "B H W C"]
Inputs = Float[AnyArray, "B *S"]  # of a model: images, or its backbone's outputs in their place
UInt8Images = UInt8[AnyArray, "B H W C"]
