"""A small training run that test_resume.py kills and starts again.

    python killable_run.py DIRECTORY WORKERS STEPS

It has what makes resuming hard: shuffled data that worker processes read ahead, noise from a random
key in the state, an optimiser's moments, donated buffers, and a save every other step. It prints a
line a step and writes the final state's bytes to DIRECTORY/final.
"""

import os
import sys
import time
from pathlib import Path

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=2"

import grain
import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import flags
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jaxtag.training.checkpoint import Checkpoints

OPTIMIZER = optax.adam(1e-2)


def to_example(index):
    return np.sin(np.arange(8) * (index + 1)).astype(np.float32)


def init(key):
    params = {"w": jax.random.normal(key, (8, 8)), "big": jnp.zeros((128, 1024))}
    return {
        "step": jnp.int32(0),
        "params": params,
        "ema": jax.tree.map(jnp.copy, params),
        "optimizer": OPTIMIZER.init(params),
        "key": key,
    }


def train_step(state, batch):
    key, noise_key = jax.random.split(state["key"])
    noisy = batch + 0.1 * jax.random.normal(noise_key, batch.shape)

    def loss(params):
        return jnp.mean((noisy @ params["w"] - batch) ** 2) + jnp.mean((params["big"] - 1) ** 2)

    grads = jax.grad(loss)(state["params"])
    updates, optimizer = OPTIMIZER.update(grads, state["optimizer"])
    params = optax.apply_updates(state["params"], updates)
    ema = jax.tree.map(lambda old, new: 0.9 * old + 0.1 * new, state["ema"], params)
    return {
        "step": state["step"] + 1,
        "params": params,
        "ema": ema,
        "optimizer": optimizer,
        "key": key,
    }


def main(directory: Path, workers: int, steps: int) -> None:
    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,))
    abstract = jax.eval_shape(init, jax.random.key(7))
    shardings = jax.tree.map(
        lambda leaf: NamedSharding(mesh, PartitionSpec("data" if leaf.ndim == 2 else None)),
        abstract,
    )
    shardings = jax.tree.map(
        lambda leaf, sharding: sharding if leaf.ndim else NamedSharding(mesh, PartitionSpec()),
        abstract,
        shardings,
    )
    step_function = jax.jit(train_step, donate_argnums=0, out_shardings=shardings)
    data = grain.MapDataset.range(50).seed(3).shuffle().repeat().map(to_example).batch(4)
    iterator = data.to_iter_dataset()
    if workers:
        iterator = iterator.mp_prefetch(grain.MultiprocessingOptions(num_workers=workers))
    iterator = iter(iterator)
    with Checkpoints(directory / "checkpoints", keep_last=2) as checkpoints:
        if checkpoints.steps():
            described = jax.tree.map(
                lambda leaf, to: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=to),
                abstract,
                shardings,
            )
            restored = checkpoints.restore(described, iterator=iterator)
            state, start = restored.state, restored.step
        else:
            state, start = jax.jit(init, out_shardings=shardings)(jax.random.key(7)), 0
        for step in range(start, steps):
            if step % 2 == 0:
                checkpoints.save(step, state, iterator, {"steps": steps})
            checkpoints.check()
            state = step_function(state, next(iterator))
            print("step", step + 1, flush=True)
            time.sleep(0.01)
    state["key"] = jax.random.key_data(state["key"])
    content = b"".join(np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(state))
    (directory / "final").write_bytes(content)


if __name__ == "__main__":
    flags.FLAGS(["killable_run"])  # grain's worker processes read absl flags
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
