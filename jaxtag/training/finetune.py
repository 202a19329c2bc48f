"""A run that starts from the weights of another one, or of another library."""

from typing import Any

import jax

from jaxtag.models.naming.loading import load
from jaxtag.tasks import Task
from jaxtag.training.state import State, averaged

_ADAPTED = ("head", "image_size", "channels")


def from_weights(state: State, path: str, task: Task, image_size: int, channels: int) -> State:
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
    ema = state.ema if state.ema is None else averaged(params, collections)
    return state.replace(params=params, collections=collections, ema=ema)


def _replaced(tree: Any, place: tuple[str, ...], variables: Any) -> Any:
    """`tree` with what lies at `place` replaced, each array where the old one was."""
    if place:
        first, *rest = place
        return {**tree, first: _replaced(tree[first], tuple(rest), variables)}
    return jax.tree.map(lambda old, new: jax.device_put(new, old.sharding), tree, variables)
