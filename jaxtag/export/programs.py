"""What a model computes, as functions of named arrays: what the exported files hold."""

import copy
import dataclasses
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxtag.decoding.cached_decoder import CachedDecoder, encode
from jaxtag.decoding.generation_config import GenerationConfig
from jaxtag.errors import UsageError
from jaxtag.inference.predictor import Predictor
from jaxtag.kernels.implementations import default_forms
from jaxtag.models.vit import ViT
from jaxtag.tasks.base import Task
from jaxtag.tasks.caption.task import CaptionTask
from jaxtag.tasks.embed.task import EmbedTask
from jaxtag.tasks.match.task import MatchTask

Arrays = dict[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class Program:
    """A function, and the shapes that it takes.

    Attributes:
        name: of its file, without the suffix.
        function: called with the inputs as keywords; the outputs by name.
        inputs: name -> shape, whose batch (and with `--dynamic_size` height and width) is symbolic,
            and dtype.
        example_sizes: values of the symbolic sizes with which two forms of the program are
            compared.
    """

    name: str
    function: Callable[..., Arrays]
    inputs: dict[str, jax.ShapeDtypeStruct]
    example_sizes: tuple[dict[str, int], ...] = ({"batch": 2},)

    @property
    def dynamic_size(self) -> bool:
        """Whether images have any height and width."""
        return "height" in self.example_sizes[0]

    def example_inputs(self) -> Iterator[Arrays]:
        """Random inputs of each of the example sizes."""
        for sizes in self.example_sizes:
            keys = iter(jax.random.split(jax.random.key(0), len(self.inputs)))
            yield {name: _random(next(keys), spec, sizes) for name, spec in self.inputs.items()}


def in_float32(model: Predictor) -> Predictor:
    """The model, computing in float32, whatever the devices here prefer."""
    task = copy.copy(model.task)
    settings = dataclasses.replace(task.config.model, dtype="float32")
    task.config = dataclasses.replace(task.config, model=settings)
    task.model = _module_in_float32(task.model)
    variables = jax.tree.map(jnp.asarray, jax.device_get(model.variables))
    return dataclasses.replace(model, task=task, variables=variables)


def _module_in_float32(module: nn.Module) -> nn.Module:
    """The module, and those among its fields, with `dtype` float32."""
    changes: dict[str, Any] = {}
    for field in dataclasses.fields(module):
        value = getattr(module, field.name)
        if field.name == "dtype":
            changes["dtype"] = jnp.float32
        elif isinstance(value, nn.Module) and field.name != "parent":
            changes[field.name] = _module_in_float32(value)
    return module.clone(**changes)


def predict_program(model: Predictor, dynamic_size: bool = False) -> Program:
    """Images to what the task predicts: all in one, a captioner's search too.

    Raises:
        UsageError: with `dynamic_size`, the model takes images of one size alone.
    """
    predict, key = model.task.make_predict(), jax.random.key(model.config.seed)

    def function(images: jax.Array) -> Arrays:
        return predict(model.variables, {"image": images}, key)

    if dynamic_size:
        return Program("model", function, *_images_of_any_size(model))
    return Program("model", function, {"images": _images(model.task)})


def onnx_programs(model: Predictor, dynamic_size: bool = False) -> list[Program]:
    """The same; of a captioner the encoder and a step of the decoder, for a loop around them."""
    task = model.task
    if isinstance(task, CaptionTask) and not dynamic_size:
        return [_caption_encoder(model, task), _caption_decoder(model, task)]
    return [predict_program(model, dynamic_size)]


def _caption_encoder(model: Predictor, task: CaptionTask) -> Program:
    def function(images: jax.Array) -> Arrays:
        memory, cache = _start(model, task, images)
        return {**_named("memory", memory), **_named("cache", cache)}

    return Program("encoder", function, {"images": _images(task)})


def _caption_decoder(model: Predictor, task: CaptionTask) -> Program:
    """One token at `position` (bos at 0) to the logits of the next, and the cache with it.

    The encoder gives memory and cache to start with. Images are the batch's rows.
    """
    images, length = _images(task), task.settings.max_length
    with default_forms():
        memory, cache = jax.eval_shape(partial(_start, model, task), images)
    structures: list[Any] = [jax.tree.structure(tree) for tree in (memory, cache)]

    def function(token: jax.Array, position: jax.Array, **arrays: jax.Array) -> Arrays:
        parts = [
            jax.tree.unflatten(tree, [arrays[f"{name}_{i}"] for i in range(tree.num_leaves)])
            for name, tree in zip(("memory", "cache"), structures, strict=True)
        ]
        decoder = _decoder(model, task, parts[0])
        # Of the one hypothesis all positions so far are its past.
        past = jnp.where(jnp.arange(length) < position, 0, -1)
        indices = jnp.broadcast_to(past, (token.shape[0], 1, length))
        logits, new, _ = decoder(token[:, None], position, parts[1], indices)
        return {"logits": logits[:, 0], **_named("new_cache", new)}

    inputs = {
        "token": jax.ShapeDtypeStruct((images.shape[0],), jnp.int32),
        "position": jax.ShapeDtypeStruct((), jnp.int32),
        **_named("memory", memory),
        **_named("cache", cache),
    }
    return Program("decoder", function, inputs)


def _start(model: Predictor, task: CaptionTask, images: jax.Array) -> tuple[Any, Any]:
    """What the decoder reads of images uint8, and its cache before the first token."""
    memory = encode(task.captioner, model.variables, task.normalize(images))
    return memory, _decoder(model, task, memory).init_cache()[0]


def _decoder(model: Predictor, task: CaptionTask, memory: Any) -> CachedDecoder:
    config = GenerationConfig("greedy", task.settings.max_length)
    return CachedDecoder(task.captioner, model.variables, memory, config)


def image_embedding_program(model: Predictor) -> Program:
    """Images as Immich prepares them, float32 [B, 3, S, S], normalized, to unit vectors.

    Raises:
        UsageError: the model has no embeddings.
    """
    task = model.task
    if not isinstance(task, EmbedTask | MatchTask):
        raise UsageError(
            f"--format=immich is for embedders and text-image models: {model.reference} is a model "
            f"of the task {task.config.task.TASK}"
        )

    def function(image: jax.Array) -> Arrays:
        images = image.transpose(0, 2, 3, 1)
        if isinstance(task, MatchTask):
            vectors: Any = task.model.apply(model.variables, images, method="embed_images")
            return {"embedding": vectors}
        outputs: Any = task.model.apply(model.variables, images)
        return {"embedding": outputs["embedding"]}

    batch, height, width, channels = _images(task).shape
    spec = jax.ShapeDtypeStruct((batch, channels, height, width), jnp.float32)
    return Program("model", function, {"image": spec})


def text_embedding_program(model: Predictor, task: MatchTask, fill_id: int) -> Program:
    """Tokens int32 [B, L], filled with `fill_id` after a text's end, to unit vectors."""
    pad_id = task.vocabulary.pad_id

    def function(text: jax.Array) -> Arrays:
        tokens = jnp.where(text == fill_id, pad_id, text) if pad_id != fill_id else text
        return {"embedding": task.embed_texts(model.variables, tokens)}

    (batch,) = jax.export.symbolic_shape("batch")
    spec = jax.ShapeDtypeStruct((batch, task.settings.max_length), jnp.int32)
    return Program("model", function, {"text": spec})


def _images(task: Task) -> jax.ShapeDtypeStruct:
    size = task.image_transform(train=False).size
    (batch,) = jax.export.symbolic_shape("batch")
    return jax.ShapeDtypeStruct((batch, size, size, 3), jnp.uint8)


def _images_of_any_size(
    model: Predictor,
) -> tuple[dict[str, jax.ShapeDtypeStruct], tuple[dict[str, int], ...]]:
    """Images whose height and width are symbolic, and example sizes.

    Raises:
        UsageError: the model is no ViT, or a captioner.
    """
    task, backbone = model.task, model.task.backbone[0]
    if not isinstance(backbone, ViT) or isinstance(task, CaptionTask):
        raise UsageError(
            "--dynamic_size is for classifiers, taggers, embedders and text-image models whose "
            f"images a ViT reads: {model.reference} is a model of the task "
            f"{task.config.task.TASK} with {task.config.model.backbone}; leave it out"
        )
    patch, size = backbone.patch_size, task.image_transform(train=False).size
    batch, height, width = jax.export.symbolic_shape(
        "batch, height, width", constraints=[f"height >= {patch}", f"width >= {patch}"]
    )
    spec = jax.ShapeDtypeStruct((batch, height, width, 3), jnp.uint8)
    sides = [(size, size), (size + patch, max(size - patch, patch))]
    examples = tuple({"batch": 2, "height": high, "width": wide} for high, wide in sides)
    return {"images": spec}, examples


def _named(name: str, tree: Any) -> dict[str, Any]:
    return {f"{name}_{i}": leaf for i, leaf in enumerate(jax.tree.leaves(tree))}


def _random(key: jax.Array, spec: jax.ShapeDtypeStruct, sizes: dict[str, int]) -> jax.Array:
    shape = tuple(size if isinstance(size, int) else sizes[str(size)] for size in spec.shape)
    if spec.dtype == jnp.uint8:
        return jax.random.randint(key, shape, 0, 256).astype(jnp.uint8)
    if jnp.issubdtype(spec.dtype, jnp.integer):
        return jnp.ones(shape, spec.dtype)
    return jax.random.normal(key, shape, spec.dtype)
