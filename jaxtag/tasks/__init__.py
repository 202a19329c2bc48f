"""What a loss, a prediction and a metric mean, for each kind of task."""

from types import ModuleType
from typing import Any, Protocol

import flax.linen as nn
import jax

from jaxtag.tasks.caption import task as caption
from jaxtag.tasks.classify import task as classify
from jaxtag.tasks.embed import task as embed
from jaxtag.tasks.tag import task as tag


class Task(Protocol):
    """Pure functions of (variables, batch, key); each task adds what its evaluation needs."""

    def init(self, key: jax.Array) -> Any:
        """Variables of the model."""

    @property
    def backbone(self) -> tuple[nn.Module, tuple[str, ...]]:
        """The backbone, and where its variables lie among those of the model."""

    def loss(
        self, variables: Any, batch: dict[str, jax.Array], key: jax.Array | None
    ) -> tuple[jax.Array, jax.Array, dict[str, tuple[jax.Array, jax.Array]], Any]:
        """(loss sums [B], weights [B], metrics as (sum, count), the model's changed collections).

        With key None there is no augmentation, no dropout, and the collections stay.
        """


# Each module has `make(config, words) -> Task` and `example(config, vocabulary, train)`.
TASKS: dict[str, ModuleType] = {
    "caption": caption,
    "classify": classify,
    "embed": embed,
    "tag": tag,
}
