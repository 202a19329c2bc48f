"""Features of a frozen backbone, computed once for a run and kept for the next ones.

A table is known by all that its numbers depend on: model, weights, preprocessing, augmentation and
data. It lies in the user's cache folder (see `feature_table.cache_folder`). Features of data
without a digest, such as records in memory, stay in memory and last as long as the run.
"""

import dataclasses
import hashlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from jaxtag.data import feature_table, pipeline
from jaxtag.data.feature_table import CachedFeatures, FeatureSource, FeatureTable
from jaxtag.distributed import coordination, watchdog
from jaxtag.distributed import mesh as meshes
from jaxtag.tasks import common
from jaxtag.tasks.base import Batch, Data, Task

_PATIENCE = 10  # times config.hang_timeout: the first batch compiles
_STALE_SECONDS = 86400.0  # since a killed process wrote to an unfinished file


def with_sources(task: Task, data: Data) -> Data:
    """`data` with room for features beside its records, where the configuration caches them."""
    target = make_target(task)
    if target is None:
        return data
    return dataclasses.replace(
        data,
        train=FeatureSource(data.train, target),
        evaluation=FeatureSource(data.evaluation, dataclasses.replace(target, views=1)),
    )


def make_target(task: Task) -> CachedFeatures | None:
    """What a training batch holds in the place of images, where the configuration caches them."""
    views = task.config.model.cached_views
    if not views:
        return None
    size = task.config.data.image_size
    images = jax.ShapeDtypeStruct((1, size, size, task.channels), np.float32)
    variables = jax.eval_shape(task.init, jax.random.key(0))
    return CachedFeatures(jax.eval_shape(task.encode, variables, images).shape[1:], views)


def fill(task: Task, mesh: Mesh, variables: Any, data: Data) -> None:
    """Fills the tables of the sources that `with_sources` made, from the cache where they are."""
    for source, train in ((data.train, True), (data.evaluation, False)):
        if isinstance(source, FeatureSource):
            source.table = compute(task, mesh, variables, source, train)


def compute(
    task: Task, mesh: Mesh, variables: Any, source: FeatureSource, train: bool
) -> FeatureTable:
    """The features of a source's images, from the cache where they are.

    Args:
        variables: of the task's model.
        train: whether its views are augmented, if there are several.
    """
    path = _path(task, variables, source, train)
    cached = None if path is None else FeatureTable.read(path, source.shape)
    if all(coordination.gather(cached is not None)):
        assert cached is not None
        return cached
    began = time.monotonic()
    parts = _features(task, mesh, variables, source, train)
    if path is None:
        table = FeatureTable.collect(source.shape, parts)
    else:
        _remove_stale(path)
        table = FeatureTable.write(path, source.shape, parts)
    if jax.process_index() == 0:
        views, count = source.shape[:2]
        print(
            f"features of {count:,} images of {source.name}, {views} view(s) each, computed in "
            f"{time.monotonic() - began:.0f} s and kept {'in memory' if path is None else path}",
            file=sys.stderr,
        )
    return table


def _features(
    task: Task, mesh: Mesh, variables: Any, source: FeatureSource, train: bool
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(features, whether decoded) of all images in order, for one view after the other."""
    config, batch_size = task.config, task.config.evaluation.batch_size
    augmented = train and source.shape[0] > 1
    encode = _compile(task, mesh, augmented)
    for view in range(source.shape[0]):
        seed = int(np.random.SeedSequence((config.seed, view)).generate_state(1)[0])
        batches = pipeline.eval_batches(
            source.source,
            example=pipeline.ExampleSpec(task.image_transform(train=augmented)),
            batch_size=batch_size,
            rows=meshes.local_row_indices(mesh, batch_size),
            num_workers=config.data.num_workers,
            num_threads=config.data.num_threads,
            seed=seed,
        )
        for number, batch in enumerate(batches):
            watchdog.expect(_PATIENCE * config.hang_timeout)
            batch["epoch"][:] = view  # as `alternating_flip` reads it
            arrays = meshes.make_global_batch(batch, mesh)
            key = jax.random.fold_in(jax.random.key(seed), number)
            outputs = (encode(variables, arrays, key), arrays["index"], arrays["mask"])
            features, index, mask = multihost_utils.process_allgather(outputs, tiled=True)
            rows = index >= 0
            yield features[rows], mask[rows] > 0
        batches.close()


def _compile(
    task: Task, mesh: Mesh, augmented: bool
) -> Callable[[Any, Batch, jax.Array], jax.Array]:
    """A compiled function (variables, batch, key) -> features [B, …]; 0 for damaged images."""

    def encode(variables: Any, batch: Batch, key: jax.Array) -> jax.Array:
        features = task.model_inputs(variables, batch, key if augmented else None)
        mask = batch["mask"].reshape(-1, *(1,) * (features.ndim - 1))
        return features * mask

    return jax.jit(meshes.with_mesh(mesh, encode), out_shardings=meshes.replicated(mesh))


def _path(task: Task, variables: Any, source: FeatureSource, train: bool) -> Path | None:
    """Where a table is kept; None where its data have no digest, or the user no home."""
    folder, fingerprint = feature_table.cache_folder(), source.fingerprint()
    if folder is None or "digest" not in fingerprint:
        return None
    config = task.config
    module, path_in_tree = task.backbone
    key: dict[str, Any] = {
        "data": [source.name, fingerprint],
        "shape": source.shape,
        "model": [repr(module), task.backbone_output, jax.default_backend()],
        "weights": _digest(common.subtree(variables, path_in_tree)),
        "image": repr(task.image_transform(train=train and source.shape[0] > 1)),
        "normalization": [config.data.mean, config.data.std, config.data.grayscale],
    }
    if source.shape[0] > 1:
        key["augmentation"] = [config.seed, repr(task.augmentation)]
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    return folder / f"{digest[:32]}.npy"


def _digest(variables: Any) -> str:
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(variables):
        digest.update(jax.tree_util.keystr(path).encode())
        digest.update(np.asarray(jax.device_get(leaf)).tobytes())
    return digest.hexdigest()


def _remove_stale(path: Path) -> None:
    """Removes what killed processes left in the cache folder."""
    for partial in path.parent.glob("*.partial"):
        if time.time() - partial.stat().st_mtime > _STALE_SECONDS:
            partial.unlink(missing_ok=True)
