"""All that a run needs to go on as if it had never stopped, but for its place in the data."""

import functools
from collections.abc import Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from jaxtag.distributed import sharding

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
        ema_dtype: jax.typing.DTypeLike | None,
    ) -> "TrainState":
        """The state before the first step.

        Args:
            variables: of the model, freshly initialized.
            key: the random key of the run.
            optimizer: of the parameters.
            ema_dtype: of moving averages of the parameters, which come with averages of the
                collections; None: there are none.
        """
        params = variables["params"]
        collections = {name: value for name, value in variables.items() if name != "params"}
        zero = jnp.zeros((), jnp.int32)
        return cls(
            step=zero,
            params=params,
            collections=collections,
            opt_state=optimizer.init(params),
            ema=None if ema_dtype is None else init_averages(params, collections, ema_dtype),
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
        shardings = jax.tree.map(lambda leaf: leaf.sharding, self.ema)
        averages = sharding.to_device(self.ema, shardings)
        params = jax.tree.map(
            lambda a, p: a if a.dtype == p.dtype else a.astype(p.dtype),
            averages["params"],
            self.params,
        )
        return {"params": params, **averages["collections"]}

    def restart_averages(self) -> "TrainState":
        """The state with its moving averages, where it has them, at the present variables."""
        if self.ema is None:
            return self
        dtype = jax.tree.leaves(self.ema["params"])[0].dtype
        shardings = jax.tree.map(lambda leaf: leaf.sharding, self.ema)
        make = jax.jit(functools.partial(init_averages, dtype=dtype), out_shardings=shardings)
        return self.replace(ema=make(self.params, self.collections))


def init_averages(
    params: Any, collections: Any, dtype: jax.typing.DTypeLike = jnp.float32
) -> dict[str, Any]:
    """The start of moving averages; copies, since a step donates the memory of its state."""
    return {
        "params": jax.tree.map(lambda p: jnp.array(p, dtype), params),
        "collections": jax.tree.map(jnp.copy, collections),
    }
