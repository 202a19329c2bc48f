"""The tensors of other libraries that the variables of a model are made of."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict

from jaxtag.weights import param_mapping


def source_shapes(model: nn.Module, table: param_mapping.Table) -> dict[str, tuple[int, ...]]:
    """Shapes of the tensors of a file, which cover the model's variables, each once."""
    images = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    shapes = flatten_dict(jax.eval_shape(model.init, jax.random.key(0), images), sep="/")
    assert table.keys() == shapes.keys()
    tensors: dict[str, tuple[int, ...]] = {}
    for path, entry in table.items():
        tensors |= param_mapping.source_shapes(shapes[path].shape, entry)
    return tensors
