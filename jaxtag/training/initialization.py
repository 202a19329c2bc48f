"""The state before the first step: fresh, of another run, of published weights, or of the data."""

import sys
from typing import Any

import jax
import numpy as np

from jaxtag.config import serialization
from jaxtag.data import pipeline
from jaxtag.data.sources import Source
from jaxtag.distributed import mesh as meshes
from jaxtag.errors import UserError
from jaxtag.storage.paths import make_path
from jaxtag.tasks.base import Task
from jaxtag.training.checkpoint import Checkpoints
from jaxtag.training.setup import TrainSetup
from jaxtag.training.train_state import TrainState
from jaxtag.weights.loader import load
from jaxtag.weights.preprocessing import load_preprocessing

_ADAPTED = ("head", "image_size", "channels")


def init_state(setup: TrainSetup, source: Source) -> TrainState:
    """The state before the first step of a run on `source`.

    What a task or a backbone derives from the training data comes first (`collections_from_data`,
    and `params_from_images` of a backbone that has it), then the weights of
    `config.model.pretrained`, which replace the backbone's. Those of `config.initial_checkpoint`,
    or of the whole model that a task starts from (`Task.pretrained`), replace all.
    """
    state, task = setup.initialize(), setup.task
    if setup.config.initial_checkpoint is not None:
        return load_run(state, setup.config.initial_checkpoint)
    for name, variables in task.collections_from_data(source).items():
        state = _replace_collection(state, name, variables)
    if task.pretrained is not None:
        return load_model(state, task.pretrained, task)
    if setup.config.model.pretrained is not None:
        return load_backbone(state, setup.config.model.pretrained, task)
    return _init_backbone(state, task, source)


def start_from_weights(setup: TrainSetup, checkpoints: Checkpoints) -> TrainState:
    """The state before the first step of a run that holds imported weights."""
    shapes = {"params": setup.shapes.params, "collections": setup.shapes.collections}
    restored = checkpoints.restore(shapes, partial=True).state
    return setup.initialize().replace(**restored).restart_averages()


def load_backbone(state: TrainState, path: str, task: Task) -> TrainState:
    """`state`, freshly initialized, with its backbone's weights from a file.

    A classifier of other classes stays as initialized, position embeddings are interpolated, and
    a first kernel is adapted to grayscale images (see `weights.load`). Raises UserError where the
    file does not fit.
    """
    module, path_in_tree = task.backbone
    size = task.config.data.image_size
    _warn_of_normalization(path, task)
    variables = load(path, module, adapt=_ADAPTED, channels=task.channels, image_size=size)
    params = replace_subtree(state.params, path_in_tree, variables.pop("params"))
    collections = dict(state.collections)
    for name, values in variables.items():
        collections[name] = replace_subtree(collections[name], path_in_tree, values)
    return state.replace(params=params, collections=collections).restart_averages()


def load_model(state: TrainState, path: str, task: Task) -> TrainState:
    """`state`, freshly initialized, with the weights of a whole model from a file.

    Position embeddings are interpolated, and a first kernel is adapted to grayscale images. Raises
    UserError where the file does not fit.
    """
    _warn_of_normalization(path, task)
    variables = load(path, task.model, adapt=("image_size", "channels"), channels=task.channels)
    params = replace_subtree(state.params, (), variables.pop("params"))
    return state.replace(params=params).restart_averages()


def _warn_of_normalization(path: str, task: Task) -> None:
    """Says on stderr that the weights want images normalized otherwise than the run does."""
    data = task.config.data
    try:
        preprocessing = load_preprocessing(path)
    except UserError:  # of another size or form than what a run prepares: nothing to compare
        return
    if preprocessing is None or data.grayscale or jax.process_index() != 0:
        return
    theirs = (preprocessing.mean, preprocessing.std)
    if not np.allclose(theirs, (data.mean, data.std), atol=1e-3):
        print(
            f"warning: {path} was trained on images normalized with mean {theirs[0]} and std "
            f"{theirs[1]}, and config.data has mean {data.mean} and std {data.std}: set "
            "config.data.mean and config.data.std",
            file=sys.stderr,
        )


def load_run(state: TrainState, workdir: str) -> TrainState:
    """`state` with the model of a run's newest checkpoint: the averages where it has any.

    Raises:
        UserError: there is no such run, or its model has other variables.
    """
    model = {"params": state.params, "collections": state.collections}
    shapes = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), model
    )
    averaged = serialization.load(workdir).optimizer.ema_decay is not None
    directory = make_path(workdir, "config.initial_checkpoint") / "checkpoints"
    with Checkpoints(directory, keep_last=1) as checkpoints:
        restored = checkpoints.restore({"ema": shapes} if averaged else shapes, partial=True).state
    restored = restored["ema"] if averaged else restored
    state = state.replace(params=restored["params"], collections=restored["collections"])
    return state.restart_averages()


def _init_backbone(state: TrainState, task: Task, source: Source) -> TrainState:
    """`state` with the parameters that a backbone computes from training images."""
    module, path_in_tree = task.backbone
    count = getattr(module, "NUM_INIT_IMAGES", 0)
    if not count:
        return state
    data = task.config.data
    images = _read_images(task, source.first(count))
    params = state.params
    for path, value in module.params_from_images(images, data.mean, data.std).items():
        params = replace_subtree(params, (*path_in_tree, *path), value)
    return state.replace(params=params).restart_averages()


def _read_images(task: Task, source: Source) -> np.ndarray:
    """All images of a source as evaluation sees them, uint8 [N, S, S, 3]."""
    batches = pipeline.eval_batches(
        source,
        example=pipeline.ExampleSpec(task.image_transform(train=False)),
        batch_size=task.config.evaluation.batch_size,
        num_threads=task.config.data.num_threads,
    )
    return np.concatenate([batch["image"][batch["mask"] > 0] for batch in batches])


def _replace_collection(state: TrainState, name: str, variables: Any) -> TrainState:
    collections = {
        **state.collections,
        name: replace_subtree(state.collections[name], (), variables),
    }
    return state.replace(collections=collections).restart_averages()


def replace_subtree(tree: Any, path: tuple[str, ...], variables: Any) -> Any:
    """`tree` with the subtree at `path` replaced; each array is laid out as the old one was."""
    if path:
        first, *rest = path
        return {**tree, first: replace_subtree(tree[first], tuple(rest), variables)}
    return jax.tree.map(lambda old, new: meshes.put_global(new, old.sharding), tree, variables)
