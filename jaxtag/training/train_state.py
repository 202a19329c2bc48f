"""All that a run needs to go on as if it had never stopped, but for its place in the data."""

from collections.abc import Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

RENAMED = {"optimizer": "opt_state"}  # fields of checkpoints of jaxtag 0.1 -> fields now


class TrainState(flax.struct.PyTreeNode):
    """Arrays of a run. `step` counts batches, `skipped` those whose gradient was not finite."""

    step: jax.Array  # int32 []
    params: Any
    collections: Any  # other variables of the model, such as batch statistics
    opt_state: optax.OptState
    ema: Any  # moving averages {"params", "collections"}, or None
    key: jax.Array  # the random key of the run; step keys are folded from it
    skipped: jax.Array  # int32 []
    skipped_in_row: jax.Array  # int32 []

    @classmethod
    def create(
        cls,
        variables: Mapping[str, Any],
        key: jax.Array,
        optimizer: optax.GradientTransformation,
        ema: bool,
    ) -> "TrainState":
        """The state before the first step.

        Args:
            variables: of the model, freshly initialized.
            key: the random key of the run.
            optimizer: of the parameters.
            ema: whether there are moving averages, of them and of the collections.
        """
        params = variables["params"]
        collections = {name: value for name, value in variables.items() if name != "params"}
        zero = jnp.zeros((), jnp.int32)
        return cls(
            step=zero,
            params=params,
            collections=collections,
            opt_state=optimizer.init(params),
            ema=init_averages(params, collections) if ema else None,
            key=key,
            skipped=zero,
            skipped_in_row=zero,
        )

    @property
    def variables(self) -> dict[str, Any]:
        """The variables that the model is trained with."""
        return {"params": self.params, **self.collections}

    @property
    def evaluation_variables(self) -> dict[str, Any]:
        """The variables that the model is used with: the average where there is one."""
        if self.ema is None:
            return self.variables
        return {"params": self.ema["params"], **self.ema["collections"]}


def init_averages(params: Any, collections: Any) -> dict[str, Any]:
    """The start of moving averages; copies, since a step donates the memory of its state."""
    return jax.tree.map(jnp.copy, {"params": params, "collections": collections})
