"""Variables of a model as files that other libraries load."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from flax.traverse_util import flatten_dict

from jaxtag.data.tokenizer import Tokenizer
from jaxtag.errors import UsageError, UserError
from jaxtag.models.decoder import Captioner
from jaxtag.models.image_text import ImageText
from jaxtag.models.preprocessing import Preprocessing
from jaxtag.storage import atomic_file
from jaxtag.storage.paths import make_path
from jaxtag.weights import (
    hf_captioners,
    hf_config,
    hf_image_text,
    mappings,
    open_clip_config,
    param_mapping,
    safetensors_io,
    timm_config,
)
from jaxtag.weights.hf_captioners import CaptionSettings
from jaxtag.weights.param_mapping import Table
from jaxtag.weights.preprocessing import to_transformers


def save(
    path: str | Path,
    model: nn.Module,
    variables: Mapping[str, Any],
    library: str = "jaxtag",
    notes: Mapping[str, Any] | None = None,
    image_size: int | None = None,
    labels: Sequence[str] | None = None,
    preprocessing: Preprocessing | None = None,
    multi_label: bool = False,
    captions: CaptionSettings | None = None,
    tokenizer: Tokenizer | None = None,
) -> None:
    """Writes `variables` as safetensors with the names of `library`.

    Args:
        path: a file `*.safetensors`, or a folder, which gets `model.safetensors`. For transformers
            a `config.json` is written beside it, for
            `AutoModelForImageClassification.from_pretrained`, and with `preprocessing` a
            `preprocessor_config.json`. For timm and open_clip a folder gets the configuration of
            their models on the Hub.
        model: what the variables are of.
        variables: "params" and, with batch norm, "batch_stats".
        library: "torchvision", "timm", "transformers", "open_clip" or "jaxtag".
        notes: stored as JSON in a file of jaxtag's.
        image_size: of the images; an EfficientNet of transformers is made for one size.
        labels: names of the classes, for the configuration of transformers or timm.
        preprocessing: of the images, for the same.
        multi_label: an image has any number of the labels.
        captions: how a captioner writes, for transformers.
        tokenizer: of an image-text model, for transformers and open_clip.

    Raises:
        UserError: the library has no such model, a variable holds NaN or infinite numbers, the
            labels are not as many as the classes, or the file cannot be written.
    """
    num_classes = getattr(model, "num_classes", 0)
    if labels is not None and len(labels) != num_classes:
        raise UsageError(f"{len(labels)} labels were given for {num_classes} classes")
    path = make_path(path)
    name = open_clip_config.WEIGHTS if library == "open_clip" else safetensors_io.SINGLE
    file = path if path.suffix == ".safetensors" else path / name
    variables = jax.device_get(variables)
    flat = flatten_dict(variables, sep="/")
    for name, array in flat.items():
        if not safetensors_io.is_finite(array):
            raise UserError(f"{name} holds NaN or infinite numbers: nothing is written to {file}")
    if library == "jaxtag":
        table = param_mapping.native_table({name: array.shape for name, array in flat.items()})
        tensors = param_mapping.to_tensors(variables, table)
        safetensors_io.write(file, tensors, {"jaxtag": json.dumps(dict(notes or {}))})
        return
    table = table_of(model, library)
    tensors = param_mapping.to_tensors(variables, table)
    # torch's batch norms count their batches; none of the libraries uses the count.
    means = [name for name in tensors if name.endswith(".running_mean")]
    tensors |= {
        name.replace(".running_mean", ".num_batches_tracked"): np.zeros((), np.int64)
        for name in means
    }
    channels, in_folder = _num_channels(flat, table), file != path
    configs: dict[str, dict[str, Any]] = {}
    if library == "transformers":
        configs = _transformers_configs(model, channels, image_size, labels, multi_label, captions)
        if preprocessing is not None:
            configs["preprocessor_config.json"] = to_transformers(preprocessing)
    elif library == "timm" and in_folder:
        config = timm_config.make_config(model, channels, image_size, labels, preprocessing)
        configs = {} if config is None else {"config.json": config}
    elif library == "open_clip" and in_folder:
        configs = {open_clip_config.FILE: _open_clip_config(model, preprocessing)}
    if tokenizer is not None and isinstance(model, ImageText):
        configs |= hf_image_text.tokenizer_files(tokenizer, model)
    safetensors_io.write(file, tensors, {"format": "pt"})
    for name, config in configs.items():
        text = json.dumps(config, indent=2, ensure_ascii=False)
        atomic_file.write_text(file.parent / name, text + "\n")


def _transformers_configs(
    model: nn.Module,
    channels: int,
    image_size: int | None,
    labels: Sequence[str] | None,
    multi_label: bool,
    captions: CaptionSettings | None,
) -> dict[str, dict[str, Any]]:
    """The files beside a model of transformers. Raises UsageError where it has no such model."""
    try:
        if captions is not None and isinstance(model, Captioner):
            return dict(hf_captioners.make_files(model, captions))
        config = hf_config.make_config(model, channels, image_size, labels, multi_label)
    except ValueError as error:
        raise UsageError(f"transformers: {error}") from error
    return {"config.json": config}


def _open_clip_config(model: nn.Module, preprocessing: Preprocessing | None) -> dict[str, Any]:
    """The configuration of open_clip. Raises UsageError where it has no such model."""
    assert isinstance(model, ImageText)  # no other model has its names
    try:
        return open_clip_config.make_config(model, preprocessing)
    except ValueError as error:
        raise UsageError(f"open_clip: {error}; give a file *.safetensors instead") from error


def table_of(model: nn.Module, library: str) -> Table:
    """The table of `library` for `model`. Raises UsageError where it has no such model."""
    tables = mappings.tables(model)
    if library not in tables:
        libraries = ", ".join([*tables, "jaxtag"])
        raise UsageError(f"{library!r} has no {type(model).__name__}; there are: {libraries}")
    try:
        return tables[library](model)
    except ValueError as error:
        raise UsageError(f"{library}: {error}") from error


def _num_channels(flat: Mapping[str, np.ndarray], table: Table) -> int:
    """The number of input channels, from the kernel that comes first in every table."""
    first = next(path for path, (layout, *_) in table.items() if layout == "conv")
    return flat[first].shape[2]
