"""Shapes of a training step's inputs, from a configuration and published sizes; reads no data."""

import jax
import numpy as np
from jax.sharding import Mesh

from jaxtag.config import dotted
from jaxtag.config.schema import Config
from jaxtag.data.feature_table import FIELD
from jaxtag.datasets import published_sizes
from jaxtag.distributed.mesh import batch_sharding
from jaxtag.tasks.base import Task
from jaxtag.training import cached_features, run_data

_STEPS_PER_EPOCH = 1000  # where the size of the training split is not published


def num_outputs(config: Config) -> int:
    """Number of tokens, classes or tags of a run; a tokenizer is taken to have all that it may.

    Raises:
        UsageError: The data set is not built in.
    """
    if run_data.task_class(config).published_vocabulary(config) == "tokens":
        return dotted.get(config, "task.vocab_size")
    return published_sizes.num_labels(config.data.dataset)


def title(config: Config) -> str:
    """One line that names what a step computes."""
    return (
        f"{config.task.TASK}, {config.model.backbone}, {config.data.dataset}, "
        f"{config.batch_size} x {config.data.image_size} px"
    )


def num_train_examples(config: Config) -> int:
    """Number of images of the training split; only the learning rate schedule depends on it."""
    published = published_sizes.num_examples(config.data.dataset, config.data.train_split)
    return _STEPS_PER_EPOCH * config.batch_size if published is None else published


def batch_shapes(task: Task, mesh: Mesh) -> dict[str, jax.ShapeDtypeStruct]:
    """A training batch of a task as the input pipeline makes it: shapes, dtypes and shardings."""
    example, batch_size = task.example_spec(train=True), task.config.batch_size
    size = task.config.data.image_size
    features = cached_features.make_target(task)
    rows: dict[str, np.ndarray | np.generic] = {
        **({FIELD: features.empty} if features else {"image": np.zeros((size, size, 3), np.uint8)}),
        "mask": np.zeros((), np.float32),
        "broken": np.zeros((), bool),
        "index": np.zeros((), np.int32),
        "epoch": np.zeros((), np.int32),
        **{name: target.empty for name, target in example.targets.items()},
    }
    sharding = batch_sharding(mesh)
    return {
        name: jax.ShapeDtypeStruct((batch_size, *row.shape), row.dtype, sharding=sharding)
        for name, row in rows.items()
    }
