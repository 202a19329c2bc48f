"""Images as vectors: by a trained model, a backbone with published weights, or their pixels."""

import dataclasses
import functools
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from jaxtag import augment, models
from jaxtag.config.schema import Config
from jaxtag.data import pipeline, transforms
from jaxtag.data.sources import DataSource
from jaxtag.distributed import mesh as meshes
from jaxtag.errors import UsageError, UserError, did_you_mean
from jaxtag.inference import predictor
from jaxtag.inference.share import Share
from jaxtag.tasks import common
from jaxtag.weights.loader import described_fields, load
from jaxtag.weights.packages import PACKAGES
from jaxtag.weights.preprocessing import load_preprocessing
from jaxtag.weights.reference import resolve

_ADAPTED = ("head", "image_size")


@dataclasses.dataclass(frozen=True)
class FeatureBatch:
    """Vectors of some of the requested images.

    Attributes:
        positions: int [M], of the images that could be decoded.
        vectors: float32 [M, D], theirs.
        errors: position -> why an image could not be decoded.
    """

    positions: np.ndarray
    vectors: np.ndarray
    errors: dict[int, str]


@dataclasses.dataclass(frozen=True)
class FeatureExtractor:
    """Computes vectors of images.

    Attributes:
        description: JSON from which `from_description` makes the same.
        dimension: D.
        mesh: the devices that compute them.
        model: that computes them, where it is a run or a published checkpoint.
    """

    description: dict[str, Any]
    dimension: int
    mesh: Mesh
    _image: transforms.ImageTransform
    _compute: Callable[[jax.Array], jax.Array]
    _config: Config
    _variables: Any
    model: predictor.Predictor | None = None

    def of_files(self, files: Sequence[Any], share: Share | None = None) -> Iterator[FeatureBatch]:
        """The vectors of files (or encoded bytes, or arrays), in order, some at a time.

        Args:
            share: of the files, those that are meant; by default all.
        """
        batches = pipeline.image_batches(
            files,
            image=self._image,
            batch_size=self.batch_size,
            num_workers=self._config.data.num_workers,
            num_threads=self._config.data.num_threads,
            batch_numbers=(share or Share()).batch_numbers(len(files), self.batch_size),
        )
        for batch in batches:
            errors, index = batch["error"], batch["index"]
            decoded = np.array([i >= 0 and not e for i, e in zip(index, errors, strict=True)])
            reasons = {int(i): e for i, e in zip(index, errors, strict=True) if e}
            vectors = self.compute(batch["image"])
            yield FeatureBatch(index[decoded], vectors[decoded], reasons)
        batches.close()

    def of_inputs(self, inputs: Sequence[Any]) -> np.ndarray:
        """The vectors of all, float32 [B, D]. Raises UserError where one cannot be decoded."""
        parts = list(self.of_files(inputs))
        errors = {position: e for part in parts for position, e in part.errors.items()}
        if errors:
            position, reason = next(iter(errors.items()))
            raise UserError(
                f"{len(errors)} of {len(inputs)} images cannot be decoded, the first at position "
                f"{position}: {reason}"
            )
        vectors = [part.vectors for part in parts]
        return np.concatenate(vectors) if vectors else np.zeros((0, self.dimension), np.float32)

    def of_source(self, source: DataSource) -> Iterator[FeatureBatch]:
        """The vectors of a prepared split, in order, some at a time; on all processes alike."""
        batches = pipeline.eval_batches(
            source,
            example=pipeline.ExampleSpec(self._image),
            batch_size=self.batch_size,
            rows=meshes.local_row_indices(self.mesh, self.batch_size),
            num_workers=self._config.data.num_workers,
            num_threads=self._config.data.num_threads,
        )
        for batch in batches:
            arrays = meshes.make_global_batch(
                {name: batch[name] for name in ("image", "index", "broken")}, self.mesh
            )
            outputs = (self._compute(arrays["image"]), arrays["index"], arrays["broken"])
            vectors, index, broken = multihost_utils.process_allgather(outputs, tiled=True)
            decoded = (index >= 0) & ~broken
            errors = dict.fromkeys(index[broken].tolist(), "a damaged image")
            yield FeatureBatch(index[decoded], vectors[decoded], errors)
        batches.close()

    def compute(self, images: np.ndarray) -> np.ndarray:
        """Vectors float32 [B, D] of images uint8 [B, S, S, 3], B a multiple of the devices."""
        arrays = meshes.make_global_batch({"image": images}, self.mesh)
        return np.asarray(self._compute(arrays["image"]))

    @functools.cached_property
    def fingerprint(self) -> str:
        """A digest of all that vectors depend on: model, weights, preprocessing."""
        description = {**self.description, "image": repr(self._image)}
        digest = hashlib.sha256(json.dumps(description, sort_keys=True).encode())
        for path, leaf in jax.tree_util.tree_leaves_with_path(self._variables):
            digest.update(jax.tree_util.keystr(path).encode())
            digest.update(np.asarray(leaf).tobytes())
        return digest.hexdigest()

    @property
    def batch_size(self) -> int:
        """The size of the batches in which vectors are computed."""
        shards = meshes.num_shards(self.mesh)
        return -(-self._config.evaluation.batch_size // shards) * shards


def from_flags(
    workdir: str | None = None,
    step: str = "newest",
    model: str | None = None,
    weights: str | None = None,
    pixels: int | None = None,
    image_size: int | None = None,
    whole_image: bool = False,
) -> FeatureExtractor:
    """By whichever of a run, a backbone and pixels is given. Raises UsageError unless it is one."""
    if [workdir, model, pixels].count(None) != 2:
        raise UsageError("give one of --workdir, --model and --pixels: how images become vectors")
    if model not in models.list_models():
        for name, value in (("image_size", image_size), ("whole_image", whole_image or None)):
            if value is not None:
                raise UsageError(f"--{name}: only for a --model of jaxtag.list_models()")
    if workdir is not None:
        return from_workdir(workdir, step)
    if model is not None:
        if ":" in model or os.path.exists(model):
            return from_workdir(model, step)
        weights = weights or (model if model in PACKAGES else None)
        return from_model(model, weights, image_size, whole_image)
    assert pixels is not None
    return from_pixels(pixels)


def from_description(description: dict[str, Any]) -> FeatureExtractor:
    """The features that a description is of. Raises UserError where it makes no sense."""
    makers: dict[str, Callable[..., FeatureExtractor]] = {
        "workdir": from_workdir,
        "model": from_model,
        "pixels": from_pixels,
    }
    names = [name for name in makers if name in description]
    if len(names) != 1:
        raise UserError(f"{description} does not say how images become vectors")
    try:
        return makers[names[0]](**description)
    except TypeError as error:
        raise UserError(f"{description}: {error}") from error


def from_workdir(workdir: str, step: str | int = "newest") -> FeatureExtractor:
    """The features of a model by its REF: its embeddings, else its backbone's."""
    return from_predictor(predictor.load(workdir, step=step))


def from_predictor(model: predictor.Predictor) -> FeatureExtractor:
    """The features of a loaded model: its embeddings, else its backbone's pooled features."""
    task = model.task
    compute = getattr(task, "embed", None)
    if compute is None:
        module, path_in_tree = task.backbone

        def compute(variables: Any, images: jax.Array) -> jax.Array:
            return _pooled(module, common.subtree(variables, path_in_tree), task.normalize(images))

    image = task.image_transform(train=False)
    description = {"workdir": model.reference, "step": model.step}
    extractor = _extractor(description, model.mesh, image, compute, model.variables, model.config)
    return dataclasses.replace(extractor, model=model)


def from_model(
    model: str,
    weights: str | None = None,
    image_size: int | None = None,
    whole_image: bool = False,
) -> FeatureExtractor:
    """Of a backbone by name, with the weights of a REF, or at random (seed 0).

    Args:
        model: A name of `jaxtag.list_models()`.
        weights: REF.
        image_size: Pixels; by default those that the weights, else the model, were made for.
        whole_image: Images are squashed to a square instead of cropped as for the weights.
    """
    if model not in models.list_models():
        raise UsageError(f"--model={model}: unknown{did_you_mean(model, models.list_models())}")
    preprocessing = (weights and load_preprocessing(weights)) or models.get_preprocessing(model)
    size = image_size or preprocessing.image_size
    fields: dict[str, Any] = described_fields(weights, model) if weights else {}
    if "image_size" in models.field_names(model):
        fields["image_size"] = size
    module = models.create_model(model, **fields)
    images = jnp.zeros((1, size, size, len(preprocessing.mean)))
    if weights:
        variables = load(
            weights, module, adapt=_ADAPTED, channels=len(preprocessing.mean), image_size=size
        )
    else:
        variables = jax.jit(module.init)(jax.random.key(0), images)

    def compute(variables: Any, images: jax.Array) -> jax.Array:
        grayscale = len(preprocessing.mean) == 1
        images = augment.normalize(
            images, preprocessing.mean, preprocessing.std, grayscale=grayscale
        )
        return _pooled(module, variables, images)

    mesh = meshes.make_mesh()
    variables = jax.device_put(variables, meshes.replicated(mesh))
    pinned = weights and resolve(weights).pinned
    description: dict[str, Any] = {"model": model, "weights": pinned, "image_size": size}
    if whole_image:
        description["whole_image"] = True
    image = transforms.evaluation_transform(
        size,
        None if whole_image else preprocessing.crop,
        preprocessing.fit,
        preprocessing.interpolation,
    )
    return _extractor(description, mesh, image, compute, variables)


def from_pixels(pixels: int) -> FeatureExtractor:
    """The image itself at pixels x pixels: the baseline of learned features."""
    if pixels < 1:
        raise UsageError(f"--pixels={pixels}: must be positive")

    def compute(_: Any, images: jax.Array) -> jax.Array:
        return images.reshape(len(images), -1).astype(jnp.float32) / 255

    return _extractor(
        {"pixels": pixels}, meshes.make_mesh(), transforms.Resize(pixels), compute, {}
    )


def _extractor(
    description: dict[str, Any],
    mesh: Mesh,
    image: transforms.ImageTransform,
    compute: Callable[[Any, jax.Array], jax.Array],
    variables: Any,
    config: Config | None = None,
) -> FeatureExtractor:
    shape = jax.ShapeDtypeStruct((1, image.size, image.size, 3), jnp.uint8)
    dimension = jax.eval_shape(compute, variables, shape).shape[1]
    run = jax.jit(meshes.with_mesh(mesh, compute), out_shardings=meshes.replicated(mesh))
    return FeatureExtractor(
        description,
        dimension,
        mesh,
        image,
        lambda images: run(variables, images),
        config or Config(),
        variables,
    )


def _pooled(module: Any, variables: Any, images: jax.Array) -> jax.Array:
    return module.apply(variables, images)["pooled"].astype(jnp.float32)
