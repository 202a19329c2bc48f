"""The training step: one pure function (state, batch) -> (state, metrics), compiled once."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from jaxtag.distributed import mesh as meshes
from jaxtag.distributed import sharding
from jaxtag.tasks.base import Batch, Metrics, Task
from jaxtag.training import ema
from jaxtag.training.train_state import TrainState


def make_train_step(
    task: Task,
    optimizer: optax.GradientTransformation,
    lr_schedule: optax.Schedule,
    *,
    grad_accum_steps: int = 1,
    average: ema.AverageUpdate = ema.no_average,
    trainable: Any = True,
    grad_shardings: Any = None,
) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
    """The step as a pure function, to be compiled with `compile_step`.

    The loss is sum(loss sums) / sum(weights) over the global batch, whatever its parts. A step
    whose loss or gradient is not finite changes nothing but the counters.

    Args:
        lr_schedule: the learning rate over steps, for the metrics.
        grad_accum_steps: parts in which a batch is computed.
        average: how the moving average is updated, where the state has one.
        trainable: a tree of bools, which parameters get a gradient, or one for all.
        grad_shardings: of the gradients that the optimizer gets; None: as XLA chooses.
    """

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        with jax.named_scope("loss"):
            key = jax.random.fold_in(state.key, state.step)
        grads, weight, metrics, collections = _gradient(
            task, state, batch, key, grad_accum_steps, trainable
        )
        with jax.named_scope("optimizer"):
            grads = jax.tree.map(lambda g: g / jnp.maximum(weight, 1e-8), grads)
            if grad_shardings is not None:
                grads = jax.lax.with_sharding_constraint(grads, grad_shardings)
            norm = optax.tree.norm(grads)
            finite = jnp.isfinite(norm) & jnp.isfinite(metrics["loss"][0])
            updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
            params = optax.apply_updates(state.params, updates)
            new = {"params": params, "collections": collections}
            new, averages = average(state.step, new, state.ema)

            def keep(new: Any, old: Any) -> Any:
                return jax.tree.map(lambda n, o: jnp.where(finite, n, o), new, old)

            bad = 1 - finite.astype(jnp.int32)
            changed = state.replace(
                step=state.step + 1,
                params=keep(new["params"], state.params),
                collections=keep(new["collections"], state.collections),
                opt_state=keep(opt_state, state.opt_state),
                ema=keep(averages, state.ema),
                skipped=state.skipped + bad,
                skipped_in_row=(state.skipped_in_row + bad) * bad,
            )
        with jax.named_scope("metrics"):
            one = jnp.ones((), jnp.float32)
            # A skipped step must not turn the averages of its log window into NaN.
            metrics = {
                name: (jnp.where(finite, total, 0.0), jnp.where(finite, count, 0.0))
                for name, (total, count) in metrics.items()
            }
            metrics["grad_norm"] = (jnp.where(finite, norm, 0.0), finite.astype(jnp.float32))
            metrics["learning_rate"] = (lr_schedule(state.step - state.skipped) * one, one)
            metrics["skipped_in_row"] = (changed.skipped_in_row.astype(jnp.float32), one)
            metrics["skipped_steps"] = (bad.astype(jnp.float32), one)
            metrics["corrupt_images"] = (
                batch["broken"].sum().astype(jnp.float32),
                batch["broken"].size * one,
            )
        return changed, metrics

    return step


def compile_step(
    step: Callable[[TrainState, Batch], tuple[TrainState, Metrics]],
    shardings: Any,
    mesh: Mesh,
    compiler_options: dict[str, str] | None = None,
) -> jax.stages.Wrapped:
    """Jits the step: the state in and out as `shardings` say, its buffers donated."""

    def on_device(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        return step(sharding.to_device(state, shardings), batch)

    return jax.jit(
        meshes.with_mesh(mesh, on_device),
        in_shardings=(shardings, meshes.batch_sharding(mesh)),
        out_shardings=(shardings, meshes.replicated(mesh)),
        donate_argnums=0,
        compiler_options=compiler_options,
    )


def _gradient(
    task: Task, state: TrainState, batch: Batch, key: jax.Array, parts: int, trainable: Any
) -> tuple[Any, jax.Array, Metrics, Any]:
    """Sum of the loss's gradients, sum of weights, metrics, collections; in `parts` parts.

    The gradient of what is not `trainable` is 0, and costs nothing.
    """
    trainable = jax.tree.broadcast(trainable, state.params)

    def part(collections: Any, batch: Batch, key: jax.Array) -> tuple[Any, Any]:
        def total(params: Any) -> tuple[jax.Array, Any]:
            seen = jax.tree.map(
                lambda p, t: p if t else jax.lax.stop_gradient(p), params, trainable
            )
            variables = {"params": seen, **collections}
            with jax.named_scope("loss"):
                sums, weights, metrics, changed = task.loss(variables, batch, key)
                return sums.sum(), (weights.sum(), metrics, changed)

        (_, (weight, metrics, changed)), grads = jax.value_and_grad(total, has_aux=True)(
            state.params
        )
        return changed, (grads, weight, metrics)

    if parts == 1:
        changed, (grads, weight, metrics) = part(state.collections, batch, key)
        return grads, weight, metrics, changed

    def body(carry: Any, inputs: Any) -> tuple[Any, None]:
        collections, sums = carry
        small, index = inputs
        changed, new = part(collections, small, jax.random.fold_in(key, index))
        return (changed, jax.tree.map(jnp.add, sums, new)), None

    small = jax.tree.map(lambda x: split_batch(x, parts), batch)
    first = jax.tree.map(lambda x: x[0], small)
    shapes = jax.eval_shape(lambda: part(state.collections, first, key)[1])
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    indices = jnp.arange(parts)
    (changed, (grads, weight, metrics)), _ = jax.lax.scan(
        body, (state.collections, zeros), (small, indices)
    )
    return grads, weight, metrics, changed


def split_batch(x: jax.Array, parts: int) -> jax.Array:
    """[B, …] -> [parts, B / parts, …] by every parts-th row: each device keeps its examples."""
    return jnp.swapaxes(x.reshape(x.shape[0] // parts, parts, *x.shape[1:]), 0, 1)
