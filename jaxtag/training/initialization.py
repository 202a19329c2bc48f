"""The state before the first step: fresh, from given weights, or fitted to the data."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxtag.config.schema import Config
from jaxtag.data import pipeline, sources
from jaxtag.distributed import mesh as meshes
from jaxtag.losses import multilabel
from jaxtag.models.airbench import Airbench94, whitening_kernel
from jaxtag.tasks import TASKS, Task
from jaxtag.tasks.tag import task as tag
from jaxtag.training.setup import TrainSetup
from jaxtag.training.train_state import TrainState, init_averages
from jaxtag.weights.loader import load

_ADAPTED = ("head", "image_size", "channels")
_WHITENING = 5000  # training pictures that a whitening is computed from


def init_state(config: Config, experiment: TrainSetup, source: sources.Source) -> TrainState:
    """The state before the first step of a run on `source`."""
    state, task = experiment.initialize(), experiment.task
    if isinstance(task, tag.TagTask) and task.weighted:
        state = init_tag_weights(state, config, task, source)
    if config.model.pretrained is not None:
        channels = 1 if config.data.grayscale else 3
        size = config.data.image_size
        return load_backbone(state, config.model.pretrained, task, size, channels)
    if isinstance(task.backbone[0], Airbench94):
        return init_whitening(state, config, task, source)
    return state


def init_tag_weights(
    state: TrainState, config: Config, task: tag.TagTask, source: sources.Source
) -> TrainState:
    """`state` with the weights of tags that the training pictures call for."""
    counts = sources.tag_counts(source, task.tags)
    limit = config.task.max_pos_weight
    weights = jnp.asarray(multilabel.positive_weights(counts, len(source), limit))
    place = ("tag_weights", "positive_weight")
    collections = _replaced(state.collections, place, weights)
    ema = state.ema if state.ema is None else init_averages(state.params, collections)
    return state.replace(collections=collections, ema=ema)


def init_whitening(
    state: TrainState, config: Config, task: Task, source: sources.Source
) -> TrainState:
    """`state` with the first convolution of a `SpeedNet` as the training pictures want it."""
    data = config.data
    batches = pipeline.eval_batches(
        source.first(_WHITENING),
        example=pipeline.ExampleSpec(TASKS[config.task].example(config, None, train=False).image),
        batch_size=config.evaluation.batch_size,
        threads=data.num_threads,
    )
    pictures = np.concatenate([batch["image"][batch["mask"] > 0] for batch in batches])
    kernel = jnp.asarray(whitening_kernel(pictures, data.mean, data.std))
    params = _replaced(state.params, (*task.backbone[1], "whiten", "kernel"), kernel)
    ema = state.ema if state.ema is None else init_averages(params, state.collections)
    return state.replace(params=params, ema=ema)


def load_backbone(
    state: TrainState, path: str, task: Task, image_size: int, channels: int
) -> TrainState:
    """`state`, freshly initialised, with its backbone as a file has it.

    A classifier of other classes stays as initialised, position embeddings are interpolated, and
    a first kernel is made to fit grey pictures (see `naming.loading.load`). Raises UserError where
    the file does not fit.
    """
    module, place = task.backbone
    found = load(path, module, adapt=_ADAPTED, channels=channels, image_size=image_size)
    params = _replaced(state.params, place, found.pop("params"))
    collections = dict(state.collections)
    for name, variables in found.items():
        collections[name] = _replaced(collections[name], place, variables)
    ema = state.ema if state.ema is None else init_averages(params, collections)
    return state.replace(params=params, collections=collections, ema=ema)


def _replaced(tree: Any, place: tuple[str, ...], variables: Any) -> Any:
    """`tree` with what lies at `place` replaced, each array where the old one was."""
    if place:
        first, *rest = place
        return {**tree, first: _replaced(tree[first], tuple(rest), variables)}
    return jax.tree.map(lambda old, new: meshes.put_global(new, old.sharding), tree, variables)
