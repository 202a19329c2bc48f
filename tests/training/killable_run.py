"""A small training run that tests kill and start again.

    python killable_run.py DIRECTORY WORKERS STEPS [PROCESS PROCESSES PORT]

DIRECTORY may be of an object store. The run has what makes resuming hard: shuffled data that worker
processes read ahead, noise from a random key in the state, an optimiser's moments, donated buffers,
and a save every other step. Process 0 holds the lock of DIRECTORY, writes a line of metrics a step,
and at the end the bytes of the state to DIRECTORY/final. Each process prints a line a step.
"""

import os
import sys
import time

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=" + (
    "2" if len(sys.argv) < 6 else str(2 // int(sys.argv[5]))
)

import grain
import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import flags
from jax.experimental import multihost_utils
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jaxtag.config.schema import Config
from jaxtag.storage.atomic_file import write_bytes
from jaxtag.storage.paths import make_path
from jaxtag.training import run_config
from jaxtag.training.checkpoint import Checkpoints
from jaxtag.training.metric_writer import JsonlMetricWriter, RunInfo

NUM_PROCESSES = int(sys.argv[5]) if len(sys.argv) > 5 else 1
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


def main(directory, workers: int, steps: int) -> None:
    with run_config.locked(directory):
        train(directory, workers, steps)


def train(directory, workers: int, steps: int) -> None:
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
    writer = JsonlMetricWriter() if jax.process_index() == 0 else None
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
        if writer:
            writer.open(RunInfo(directory, start, steps, Config()))
        for step in range(start, steps):
            if step % 2 == 0:
                if writer:
                    writer.flush()
                checkpoints.save(step, state, iterator, {"steps": steps})
            checkpoints.check()
            state = step_function(state, next(iterator))
            if writer:
                writer.write_scalars(step + 1, "train", {})
            print("step", step + 1, flush=True)
            time.sleep(0.01)
        if writer:
            writer.close()
    state["key"] = jax.random.key_data(state["key"])
    arrays = multihost_utils.process_allgather(state, tiled=True)
    if jax.process_index() == 0:
        content = b"".join(np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(arrays))
        write_bytes(directory / "final", content)


if __name__ == "__main__":
    flags.FLAGS(["killable_run"])  # grain's worker processes read absl flags
    if NUM_PROCESSES > 1:
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize(f"localhost:{sys.argv[6]}", NUM_PROCESSES, int(sys.argv[4]))
    main(make_path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
