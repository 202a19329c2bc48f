"""Variables of a model as files that other libraries load."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from flax.traverse_util import flatten_dict

from jaxtag.errors import UsageError
from jaxtag.weights import hf_config, mappings, safetensors_io
from jaxtag.weights.param_mapping import Table, own, write


def save(
    path: str | Path,
    model: nn.Module,
    variables: Mapping[str, Any],
    library: str = "jaxtag",
    notes: Mapping[str, Any] | None = None,
    image_size: int | None = None,
) -> None:
    """Writes `variables` as safetensors with the names of `library`.

    Args:
      path: a file `*.safetensors`, or a folder, which gets `model.safetensors`. For transformers
        its `config.json` comes beside it, for `AutoModelForImageClassification.from_pretrained`.
      library: "torchvision", "timm", "transformers" or "jaxtag".
      notes: kept in a file of jaxtag's as JSON.
      image_size: of the pictures; for an EfficientNet of transformers, which is made for one.

    Raises:
      UserError: the library has no such model, or the file cannot be written.
    """
    path = Path(path)
    file = path if path.suffix == ".safetensors" else path / safetensors_io.SINGLE
    variables = jax.device_get(variables)
    flat = flatten_dict(variables, sep="/")
    if library == "jaxtag":
        table = own({name: array.shape for name, array in flat.items()})
        safetensors_io.write(
            file, write(variables, table), {"jaxtag": json.dumps(dict(notes or {}))}
        )
        return
    table = table_of(model, library)
    tensors = write(variables, table)
    # torch's batch norms count their batches; the count matters to none of the libraries.
    counters = [name for name in tensors if name.endswith(".running_mean")]
    tensors |= {
        name.replace(".running_mean", ".num_batches_tracked"): np.zeros((), np.int64)
        for name in counters
    }
    config = None
    if library == "transformers":
        try:
            config = hf_config.make(model, _channels(flat, table), image_size)
        except ValueError as error:
            raise UsageError(f"transformers: {error}") from error
    safetensors_io.write(file, tensors, {"format": "pt"})
    if config is not None:
        text = json.dumps(config, indent=2) + "\n"
        (file.parent / "config.json").write_text(text, encoding="utf-8")


def table_of(model: nn.Module, library: str) -> Table:
    """The table of `library` for `model`. Raises UsageError where it has no such model."""
    tables = mappings.tables(model)
    if library not in tables:
        known = ", ".join([*tables, "jaxtag"])
        raise UsageError(f"{library!r} has no {type(model).__name__}; there are: {known}")
    try:
        return tables[library](model)
    except ValueError as error:
        raise UsageError(f"{library}: {error}") from error


def _channels(flat: Mapping[str, np.ndarray], table: Table) -> int:
    """Of the pictures: of the kernel that comes first in every table."""
    first = next(path for path, (layout, *_) in table.items() if layout == "conv")
    return flat[first].shape[2]
