"""A network that is quick to trace and to run."""

import flax.linen as nn
import jax

from jaxtag.models.preprocessing import Preprocessing


class SmallClassifier(nn.Module):
    """One convolution, batch norm, dropout and a linear layer."""

    PREPROCESSING = Preprocessing(16, (0.5,) * 3, (0.5,) * 3)

    num_classes: int = 0
    dropout: float = 0.1

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> dict[str, jax.Array]:
        x = nn.Conv(8, (4, 4), (4, 4))(images)
        x = nn.relu(nn.BatchNorm(use_running_average=not train)(x))
        pooled = nn.Dropout(self.dropout, deterministic=not train)(x.mean((1, 2)))
        outputs = {"features": x, "pooled": pooled}
        return {**outputs, "logits": nn.Dense(self.num_classes)(pooled)}
