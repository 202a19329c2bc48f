"""All that a run needs to go on as if it had never stopped, but for its place in the data."""

from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax


class State(flax.struct.PyTreeNode):
    """Arrays of a run. `step` counts batches, `skipped` those whose gradient was not finite."""

    step: jax.Array  # int32 []
    params: Any
    collections: Any  # other variables of the model, such as batch statistics
    optimizer: Any
    ema: Any  # moving average of params, or None
    key: jax.Array  # the random key of the run; step keys are folded from it
    skipped: jax.Array  # int32 []
    skipped_in_row: jax.Array  # int32 []

    @property
    def variables(self) -> dict[str, Any]:
        """What the model is trained with."""
        return {"params": self.params, **self.collections}

    @property
    def evaluation_variables(self) -> dict[str, Any]:
        """What the model is used with: the average where there is one."""
        return {"params": self.params if self.ema is None else self.ema, **self.collections}


def initializer(
    init: Callable[[jax.Array], Any],
    optimizer: optax.GradientTransformation,
    ema: bool,
) -> Callable[[jax.Array], State]:
    """A pure function key → State, to be shaped with eval_shape and then compiled sharded."""

    def initialize(key: jax.Array) -> State:
        init_key, run_key = jax.random.split(key)
        variables = dict(init(init_key))
        params = variables.pop("params")
        zero = jnp.zeros((), jnp.int32)
        return State(
            step=zero,
            params=params,
            collections=variables,
            optimizer=optimizer.init(params),
            ema=jax.tree.map(jnp.copy, params) if ema else None,
            key=run_key,
            skipped=zero,
            skipped_in_row=zero,
        )

    return initialize
