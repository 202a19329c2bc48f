"""Variables of a model from files of any library: detects the names and checks everything."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import unflatten_dict

from jaxtag import models
from jaxtag.errors import UsageError, UserError
from jaxtag.models.vit import ViT
from jaxtag.weights import hf_config, image_towers, mappings, param_mapping, safetensors_io
from jaxtag.weights.adapt import (
    ADAPTATIONS,
    HEADS,
    Shape,
    adapt_first_kernel,
    adaptation_for,
    initial_values,
    model_inputs,
    resize_position_embeddings,
    variable_shapes,
)
from jaxtag.weights.mappings import image_text
from jaxtag.weights.param_mapping import Entry, Table
from jaxtag.weights.prefixes import remove_prefix
from jaxtag.weights.reference import Reference, resolve
from jaxtag.weights.safetensors_io import is_finite
from jaxtag.weights.tensors import Tensors

# In files, but without effect: counters, unused poolers and mask tokens, causal masks, tied copies.
_IGNORED = re.compile(
    r"num_batches_tracked$|(^|\.)pooler\.|position_ids$|(^|\.)mask_token$|"
    r"\.(attn|crossattention)\.(masked_)?bias$|^decoder\.lm_head\.weight$|"
    r"^(input_resolution|context_length|vocab_size)$|"
    r"(^|\.)cls\.predictions\.decoder\.(weight|bias)$"
)
# The rest of a CLIP or SigLIP, where a file of the whole model is read for its image tower alone.
_BESIDE_TOWER = re.compile(
    r"^(text_model|text|transformer|token_embedding|ln_final|text_projection|visual_projection)\.|"
    r"^(positional_embedding|text_projection|visual\.proj|logit_scale|logit_bias)$"
)
_MAX_PROBLEMS = 4  # that one error names


def load(
    path: Reference,
    model: nn.Module,
    *,
    adapt: Iterable[str] = (),
    channels: int = 3,
    image_size: int | None = None,
) -> dict[str, Any]:
    """Loads the variables of `model` from weights of another library or of jaxtag.

    A backbone that is the image tower of a CLIP or SigLIP (`vit_base_patch16_clip`,
    `vit_base_patch16_siglip` …) is read from the files of the whole model too.

    The source library is detected from the tensor names; a prefix that all of them share
    (`module.`, `_orig_mod.`, `model.` …) is taken off. Tensors of any float type become float32
    (exactly, from float16 and bfloat16). Where a config.json beside the weights names another
    epsilon than the model has, a line on stderr says so.

    Args:
        path: any REF (see `jaxtag.weights.reference`): a file, a folder with `model.safetensors`,
            `pytorch_model.bin` or shards and their index, `hf:owner/name`, the name of a model
            whose weights an installed package brings.
        model: a backbone of `create_model` with the `num_classes` it is to have, or a captioner.
        adapt: what may differ between file and model. "head": a classifier that is missing or has
            other classes is initialized by the model, and one that the model lacks is ignored.
            "image_size": a ViT's position embeddings are interpolated (bicubic, as by
            `transformers`' interpolate_pos_encoding). "channels": the first kernel is summed for
            grayscale images, else repeated and scaled, as by timm.
        channels: of the images that the model is for.
        image_size: of these images, where the model's weights depend on it and no field sets it.

    Returns:
        {"params": …} and, with batch norm, "batch_stats": float32 `jax.Array`s.

    Raises:
        UserError: the file is damaged, names code, holds NaN or infinite numbers, or does not fit;
            the error names what does not.
    """
    adapt = tuple(adapt)
    if unknown := [name for name in adapt if name not in ADAPTATIONS]:
        raise UsageError(f"adapt={unknown[0]!r}: must be among {', '.join(ADAPTATIONS)}")
    path = resolve(path).path
    inputs = model_inputs(model, channels, image_size)
    shapes = variable_shapes(model, inputs)
    tensors = Tensors(path)
    try:
        tensors, library, table = match(tensors, model, shapes)
    except UserError as error:
        hint = image_towers.hint(safetensors_io.folder_of(tensors.path))
        raise UserError(f"{error}{hint}") from error
    problems = hf_config.check_function(tensors.path, model, library)
    problems += _check_openai(tensors, model)
    problems += _unexpected(tensors, table, model, library, adapt)
    variables: dict[str, np.ndarray] = {}
    initialized = []
    for name, entry in table.items():
        shape, differences = _compare(tensors, entry, shapes[name])
        adaptation = adaptation_for(name, shape, shapes[name]) if differences else None
        if differences and adaptation not in adapt:
            hint = f' (adapt "{adaptation}" {ADAPTATIONS[adaptation]})' if adaptation else ""
            problems += [problem + hint for problem in differences]
        elif adaptation == "head":
            initialized.append(name)
        elif not problems:
            array = param_mapping.to_variable(tensors, entry)
            if not is_finite(array):
                problems.append(_describe_non_finite(tensors, entry))
            variables[name] = _adapt(adaptation, array, model, shapes[name], path)
    if problems:
        rest = len(problems) - _MAX_PROBLEMS
        more = [f"and {rest} more"] if rest > 0 else []
        listed = "; ".join([*problems[:_MAX_PROBLEMS], *more])
        raise UserError(f"{path} ({library}) does not fit {type(model).__name__}: {listed}")
    variables |= initial_values(model, initialized, inputs)
    arrays = {name: jnp.asarray(array) for name, array in variables.items()}
    return unflatten_dict(arrays, sep="/")


def described_fields(path: Reference, name: str) -> dict[str, Any]:
    """The fields of the backbone `name` that the files beside weights say and no tensor shows.

    These are the epsilon of the norms (`norm_eps`) and of a tower of CLIP or SigLIP the activation.

    Raises:
        UserError: there are no such weights, or what is beside them is damaged.
    """
    folder = safetensors_io.folder_of(resolve(path).path)
    tower = image_towers.read(folder)
    if tower is not None:
        fields = image_towers.function_fields(tower)
    else:
        epsilon = hf_config.epsilon(safetensors_io.read_json(folder / "config.json"))
        fields = {} if epsilon is None else {"norm_eps": epsilon}
    names = models.field_names(name)
    return {field: value for field, value in fields.items() if field in names}


def match(
    tensors: Tensors, model: nn.Module, shapes: dict[str, Shape]
) -> tuple[Tensors, str, Table]:
    """The library whose names fit the file best.

    Returns:
        (the tensors without a prefix that all names share, the library, its table).

    Raises:
        UserError: no library's names fit, or a prefix cannot be taken off.
    """
    candidates = [("jaxtag", param_mapping.native_table(shapes)), *_tables(model)]
    tensors = _without_shared_prefix(tensors, [table for _, table in candidates])

    def num_matches(candidate: tuple[str, Table]) -> int:
        return sum(name in tensors for name in param_mapping.source_names(candidate[1]))

    library, table = max(candidates, key=num_matches)
    if not num_matches((library, table)):
        first = ", ".join(sorted(tensors)[:3])
        libraries = ", ".join(dict.fromkeys(library for library, _ in candidates))
        raise UserError(
            f"{tensors.path} holds no weights of {type(model).__name__} under the names of "
            f"{libraries}; its first are {first or 'none: it is empty'}"
        )
    return tensors, library, table


def count_classes(tensors: Tensors, model: nn.Module) -> int:
    """The number of classes of the file's classifier; 0 where it has none.

    Args:
        model: with any number of classes other than 0.
    """
    tables = [table for _, table in _tables(model)]
    tensors = _without_shared_prefix(tensors, tables)
    biases = ["params/head/bias"]
    biases += [name for table in tables for name in table.get("params/head/bias", ("",))[1:]]
    return next((tensors.shape(name)[0] for name in biases if name in tensors), 0)


def _tables(model: nn.Module) -> list[tuple[str, Table]]:
    """(library, table) of those that have the model, then each for a file without its head."""
    tables = []
    for library, make_table in mappings.readable_tables(model):
        try:
            tables.append((library, make_table(model)))
        except ValueError:  # it has no such model
            continue
    return tables + [
        (library, _without_prefix(table)) for library, table in tables if library != "open_clip"
    ]


def _without_shared_prefix(tensors: Tensors, tables: Iterable[Table]) -> Tensors:
    names = (name for table in tables for name in param_mapping.source_names(table))
    return remove_prefix(tensors, names, _IGNORED)


def _describe_non_finite(tensors: Tensors, entry: Entry) -> str:
    """Names the first tensor of an entry that holds NaN or infinite numbers, and how many."""
    name = next(name for name in entry[1:] if not is_finite(tensors[name]))
    array = tensors[name]
    counts = {"NaN": int(np.isnan(array).sum()), "infinite": int(np.isinf(array).sum())}
    numbers = " and ".join(f"{count} {kind}" for kind, count in counts.items() if count)
    return f"{name} holds {numbers} of {array.size} numbers (the training diverged?)"


def _without_prefix(table: Table) -> Table:
    """The table for a file of the model without its head, where names lack the first component."""
    prefix = next(iter(table.values()))[1].partition(".")[0] + "."
    return {
        path: (layout, *(name.removeprefix(prefix) for name in names))
        for path, (layout, *names) in table.items()
    }


def _compare(tensors: Tensors, entry: Entry, expected: Shape) -> tuple[Shape | None, list[str]]:
    """Compares the tensors of an entry with the shape of the model's variable.

    Returns:
        (the variable's shape by the file, None where that is not defined; the differences).
    """
    shapes, problems = param_mapping.source_shapes(expected, entry), []
    for name, shape in shapes.items():
        if name not in tensors:
            problems.append(f"missing {name} {list(shape)}")
        elif tensors.shape(name) != shape:
            actual = list(tensors.shape(name))
            problems.append(f"{name} is {actual}, the model has {list(shape)}")
    if not problems or any(name not in tensors for name in shapes):
        return None, problems
    try:
        return param_mapping.to_variable(tensors, entry).shape, problems
    except ValueError:  # not even the number of dimensions is right
        return None, problems


def _unexpected(
    tensors: Tensors, table: Table, model: nn.Module, library: str, adapt: tuple[str, ...]
) -> list[str]:
    """Descriptions of the tensors that the model has no variables for."""
    expected = set(param_mapping.source_names(table))
    names = [name for name in tensors if name not in expected and not _IGNORED.search(name)]
    if image_text.is_tower(model):
        names = [name for name in names if not _BESIDE_TOWER.search(name)]
    heads = _head_names(model, library) if names else set()
    heads |= tensors.unprefixed
    if "head" in adapt:
        names = [name for name in names if name not in heads]
    return [
        f"unexpected {name} {list(tensors.shape(name))}"
        + (' (adapt "head" leaves it out)' if name in heads else "")
        for name in names
    ]


def _check_openai(tensors: Tensors, model: nn.Module) -> list[str]:
    """OpenAI's own files, which nothing describes, are of models with one activation."""
    activation = getattr(_image_encoder(model), "activation", None)
    if "input_resolution" not in tensors or activation == "quick_gelu":
        return []
    return [
        f'OpenAI\'s CLIP has the activation "quick_gelu", the model has "{activation}" (the names '
        "vit_…_clip_quickgelu have the former)"
    ]


def _head_names(model: nn.Module, library: str) -> set[str]:
    """The source names of the classifier that `model` lacks."""
    if getattr(model, "num_classes", None) != 0:
        return set()
    if library == "jaxtag":
        return {f"{head}{name}" for head in HEADS for name in ("kernel", "bias")}
    return {
        name
        for of, table in _tables(model.clone(num_classes=1))
        for path, (_, *names) in table.items()
        if of == library and path.startswith(HEADS)
        for name in names
    }


def _image_encoder(model: nn.Module) -> ViT:
    """The part whose position embeddings can be resized."""
    return cast(ViT, getattr(model, "image_encoder", getattr(model, "encoder", model)))


def _adapt(
    adaptation: str | None, array: np.ndarray, model: nn.Module, shape: Shape, path: str | Path
) -> np.ndarray:
    if adaptation == "image_size":
        try:
            return resize_position_embeddings(array, _image_encoder(model))
        except ValueError as error:
            raise UserError(f"{path}: {error}") from error
    return adapt_first_kernel(array, shape[2]) if adaptation == "channels" else array
