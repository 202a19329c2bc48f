"""Predictors: a trained model out of a work directory, on whatever devices are here."""

import dataclasses
import functools
import io
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from jaxtag.config import serialization
from jaxtag.config.schema import Config
from jaxtag.data import pipeline
from jaxtag.data.targets import TAG_PROMPT
from jaxtag.distributed import mesh as meshes
from jaxtag.distributed import sharding
from jaxtag.errors import UsageError, UserError
from jaxtag.inference.checkpoint import CheckpointOptions, open_checkpoint
from jaxtag.inference.prediction import Prediction
from jaxtag.inference.share import Share
from jaxtag.tasks.base import Predict, Row, Task
from jaxtag.training import run_data
from jaxtag.training.checkpoint import Checkpoints
from jaxtag.weights.reference import Reference, ResolvedReference, resolve

# The indices of a batch's inputs, int [B], -1 for padding -> the tokens of prompts, int32 [B, P].
PromptRows = Callable[[np.ndarray], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Predictor:
    """A trained model and all that its use takes.

        predictor = jaxtag.load("runs/x")
        predictor("photo.jpg").tags                # one image -> one prediction
        predictor([array, pil_image, "b.png"])     # several -> a list
        predictor.features(images)                 # float32 [B, D]

    An image is a path, encoded bytes, a file object, a PIL image, or an array uint8 [H, W, 3] (or
    [H, W], grayscale); an array [B, H, W, 3] is several.

    Attributes:
        task: with its model, vocabulary and configuration.
        variables: of the model: the averaged ones where the run has any.
        step: of the checkpoint.
        workdir: that it came from, or the files of a published checkpoint.
        reference: of these, that holds elsewhere and tomorrow too.
    """

    task: Task
    mesh: Mesh
    variables: Any
    step: int
    workdir: Path
    reference: str

    @property
    def config(self) -> Config:
        return self.task.config

    @property
    def vocabulary(self) -> Any:
        return self.task.vocabulary

    def __call__(
        self, images: Any, top_k: int | None = None, prompts: str | Sequence[str] | None = None
    ) -> Any:
        """The prediction for an image, or a list of predictions for several.

        An image that cannot be decoded has a prediction with `error`.

        Args:
            top_k: how many tags a prediction has, whatever their scores; by default those that
                reach their thresholds, or a classifier's 5 likeliest classes.
            prompts: what captions begin with: one text, or one for each image.
        """
        inputs, single = as_inputs(images)
        if isinstance(prompts, str):
            prompts = [prompts] * len(inputs)
        rows = self.predict_rows(inputs, top_k, prompts=prompts)
        predictions = [
            Prediction.from_row(row, image) for row, image in zip(rows, inputs, strict=True)
        ]
        return predictions[0] if single else predictions

    def features(self, images: Any) -> np.ndarray:
        """Vectors of images, float32 [B, D]: embeddings, or the backbone's pooled features.

        Raises:
            UserError: an image cannot be decoded.
        """
        from jaxtag.inference import features

        inputs, _ = as_inputs(images)
        return features.from_predictor(self).of_inputs(inputs)

    def predict_rows(
        self,
        inputs: Sequence[Any],
        top_k: int | None = None,
        share: Share | None = None,
        prompts: Sequence[str] | None = None,
    ) -> Iterator[Row]:
        """A row of JSON values for each file or image, in order; memory does not grow.

        Args:
            inputs: paths, encoded bytes or arrays uint8 [H, W, 3].
            top_k: as of `__call__`.
            share: of the inputs, those that are meant; by default all. It changes no row.
            prompts: what the caption of each input begins with.

        Raises:
            UsageError: at once, where the settings of decoding do not fit the model, or prompts
                are not as many as the inputs.
        """
        prompt_rows = self._prompt_rows(inputs, share, prompts)
        config, predict = self.config, self._predict
        batch_size = self.batch_size(len(inputs))
        numbers = (share or Share()).batch_numbers(len(inputs), batch_size)
        batches = pipeline.image_batches(
            inputs,
            image=self.task.image_transform(train=False),
            batch_size=batch_size,
            num_workers=config.data.num_workers,
            num_threads=config.data.num_threads,
            batch_numbers=numbers,
        )
        numbered = zip(numbers, batches, strict=True)
        return self._rows(predict, numbered, batches.close, top_k, prompt_rows)

    def _prompt_rows(
        self, inputs: Sequence[Any], share: Share | None, prompts: Sequence[str] | None
    ) -> PromptRows | None:
        """What the captions of each batch begin with; None where nothing does."""
        if prompts is None:
            tagger = self._tagger
            return None if tagger is None else self._tag_prompt(tagger, inputs, share)
        if len(prompts) != len(inputs):
            raise UsageError(f"{len(prompts)} prompts were given for {len(inputs)} images")
        tokens = self.task.encode_prompts(prompts)
        return lambda index: tokens[np.maximum(index, 0)]

    @functools.cached_property
    def _tagger(self) -> "Predictor | None":
        """The model whose tags captions begin with, which predicts in the same batches."""
        reference = getattr(self.task.settings, "tags_from", None)
        if reference is None:
            return None
        from jaxtag.inference.tag_prompt import load_tagger

        tagger = load_tagger(reference)
        tagger.config.evaluation.batch_size = self.config.evaluation.batch_size
        return tagger

    def _tag_prompt(
        self, tagger: "Predictor", inputs: Sequence[Any], share: Share | None
    ) -> PromptRows:
        """The indices of one batch after the other -> the tokens of their tags, int32 [B, P]."""
        from jaxtag.inference.tag_prompt import text_of

        rows = tagger.predict_rows(inputs, self.task.settings.num_tags, share)
        target = self.task.targets(train=False)["prompt"]

        def of_batch(index: np.ndarray) -> np.ndarray:
            tokens = np.tile(target.empty, (len(index), 1))
            for place in np.flatnonzero(index >= 0):
                tokens[place] = target({TAG_PROMPT: text_of(next(rows))}, None)
            return tokens

        return of_batch

    def batch_size(self, num_images: int) -> int:
        """The size of the batches in which so many images are predicted."""
        shards = meshes.num_shards(self.mesh)
        batch_size = max(1, min(self.config.evaluation.batch_size, num_images))
        return -(-batch_size // shards) * shards  # whole rows for each device

    @functools.cached_property
    def _predict(self) -> Predict:
        return self.task.make_predict()

    def _rows(
        self,
        predict: Predict,
        batches: Iterable[tuple[int, dict[str, Any]]],
        close: Callable[[], None],
        top_k: int | None,
        prompt_rows: PromptRows | None,
    ) -> Iterator[Row]:
        key = jax.random.key(self.config.seed)
        for number, batch in batches:
            files, errors = batch.pop("file"), batch.pop("error")
            if prompt_rows is not None:  # indices of padding are -1
                batch["prompt"] = prompt_rows(batch["index"])
            arrays = meshes.make_global_batch(batch, self.mesh)
            outputs = predict(self.variables, arrays, jax.random.fold_in(key, number))
            rows = self.task.rows(jax.device_get(outputs), top_k)
            for row in np.flatnonzero(batch["index"] >= 0):
                file = {"file": files[row]} if files[row] else {}
                yield {**file, **({"error": errors[row]} if errors[row] else rows[row])}
        close()


def load(
    reference: Reference,
    config: Config | None = None,
    step: str | int = "newest",
    options: CheckpointOptions | None = None,
) -> Predictor:
    """Loads a trained model without its optimizer.

    Args:
        reference: any REF (see `jaxtag.weights.reference`): the work directory of a run of
            jaxtag.train, on whatever devices it ran, or a published checkpoint.
        config: the run's own by default.
        step: of a run: "newest", "best" (by config.checkpoint.best_metric), or a number.
        options: for what a published checkpoint does not say of itself.

    Raises:
        UserError: there is no such checkpoint, or it does not fit `config`.
    """
    resolved = resolve(reference)
    if resolved.is_published:
        return _load_published(resolved, options)
    workdir = resolved.path
    config = serialization.load(workdir) if config is None else config
    vocabulary = run_data.load_vocabulary(config, workdir)
    mesh = _make_mesh(config)
    task = run_data.task_class(config)(config, vocabulary)
    collections = dict(jax.eval_shape(task.init, jax.random.key(0)))
    params = collections.pop("params")
    rules = (*config.mesh.rules, *sharding.TRANSFORMER)
    layout = sharding.infer_sharding(params, mesh, rules)
    shapes = {"params": params, "collections": collections}
    if config.optimizer.ema_decay is not None:
        shapes = {"ema": shapes}
    shapes = sharding.shard_shapes(shapes, layout, mesh)
    with Checkpoints(
        workdir / "checkpoints",
        keep_last=config.checkpoint.keep_last,
        keep_best=config.checkpoint.keep_best,
        best_metric=config.checkpoint.best_metric or task.headline_metrics[0],
    ) as checkpoints:
        restored = checkpoints.restore(shapes, _step_number(step, checkpoints), partial=True)
    vocabulary_path = run_data.vocabulary_path(config, workdir)
    run_data.check_saved_labels(vocabulary_path, vocabulary, restored.notes)
    state = restored.state.get("ema", restored.state)
    variables = {"params": state["params"], **state["collections"]}
    task.load_artifacts(workdir, restored.step)
    return Predictor(task, mesh, variables, restored.step, workdir, resolved.pinned)


def _load_published(reference: ResolvedReference, options: CheckpointOptions | None) -> Predictor:
    opened = open_checkpoint(reference, options)
    mesh = meshes.make_mesh()
    variables = jax.device_put(opened.variables, meshes.replicated(mesh))
    return Predictor(opened.task, mesh, variables, 0, reference.path, reference.pinned)


def _make_mesh(config: Config) -> Mesh:
    """The devices here, which need not be those of the training, with weights split as there.

    So a model that fits on no device by itself can be used. Where there are too few devices for
    `config.mesh`, each of them holds the whole model.
    """
    sizes = (config.mesh.fsdp, config.mesh.tensor)
    try:
        return meshes.make_mesh(1 if -1 in sizes else -1, *sizes)
    except UserError:
        return meshes.make_mesh()


def as_inputs(images: Any) -> tuple[list[Any], bool]:
    """A list of single images in a form that the pipeline reads, and whether one was given.

    Paths stay text; arrays, PIL images, bytes and file objects become arrays or bytes.
    """
    if _is_single(images):
        return [_as_input(images)], True
    return [_as_input(image) for image in images], False


def _is_single(images: Any) -> bool:
    if isinstance(images, (str, bytes, bytearray, os.PathLike)) or hasattr(images, "read"):
        return True
    if hasattr(images, "getbands"):  # a PIL image
        return True
    shape = getattr(images, "shape", None)
    if shape is not None:
        return len(shape) == 2 or (len(shape) == 3 and shape[-1] in (1, 3, 4))
    if not isinstance(images, Iterable):
        raise UsageError(f"{type(images).__name__} is no image: give a path, array or PIL image")
    return False


def _as_input(image: Any) -> Any:
    if isinstance(image, (str, os.PathLike)):
        return os.fspath(image)
    if hasattr(image, "read"):
        return bytes(image.read())
    if isinstance(image, (bytes, bytearray, memoryview)):
        return bytes(image)
    if hasattr(image, "getbands"):  # a PIL image, encoded without loss: its transparency,
        buffer = io.BytesIO()  # palette and orientation are treated as those of a file
        image.save(buffer, "PNG", exif=image.getexif())
        return buffer.getvalue()
    array = np.asarray(image)
    if array.dtype != np.uint8 or array.ndim not in (2, 3):
        raise UsageError(
            f"an array of images must be uint8 [H, W, 3], got {array.dtype}{list(array.shape)}"
        )
    if array.ndim == 2 or array.shape[-1] == 1:
        array = np.repeat(array.reshape(*array.shape[:2], 1), 3, axis=-1)
    return np.ascontiguousarray(array[..., :3])


def _step_number(step: str | int, checkpoints: Checkpoints) -> int | None:
    step = str(step)
    if step == "newest":
        return None
    if step == "best":
        best = checkpoints.best_step()
        if best is None:
            raise UserError(
                f"{checkpoints.directory} has no checkpoint that was evaluated: --step=newest"
            )
        return best
    if not step.isdecimal():
        raise UsageError(f"--step={step}: must be newest, best or a number")
    return int(step)
