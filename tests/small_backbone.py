"""A backbone that is quick to trace and to run."""

import flax.linen as nn
import jax


class SmallBackbone(nn.Module):
    """One convolution, batch norm and dropout: in training another function than in use."""

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> dict[str, jax.Array]:
        x = nn.Conv(6, (8, 8), (8, 8))(images)
        x = nn.relu(nn.BatchNorm(use_running_average=not train)(x))
        x = nn.Dropout(0.5, deterministic=not train)(x)
        return {"features": x, "pooled": x.mean((1, 2))}
