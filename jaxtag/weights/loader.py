"""Variables of a model from files of any library: the names are found out, all is checked."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from flax.traverse_util import unflatten_dict

from jaxtag.errors import UsageError, UserError
from jaxtag.weights import adapt as adapting
from jaxtag.weights import mappings
from jaxtag.weights.param_mapping import Table, own, source, source_shapes, target
from jaxtag.weights.safetensors_io import Tensors

# In files, but not of the function: counters, poolers nobody reads, causal masks, tied copies.
_EXTRAS = re.compile(
    r"num_batches_tracked$|(^|\.)pooler\.|position_ids$|"
    r"\.(attn|crossattention)\.(masked_)?bias$|^decoder\.lm_head\.weight$"
)
_TOLD = 4  # problems that one error names


def load(
    path: str | Path,
    model: nn.Module,
    *,
    adapt: Iterable[str] = (),
    channels: int = 3,
    image_size: int | None = None,
) -> dict[str, Any]:
    """The variables of `model` from safetensors of torchvision, timm, transformers or jaxtag.

    Whose names they are is found out. Tensors of any float type become float32 (exactly, from
    float16 and bfloat16).

    Args:
      path: a file, or a folder with `model.safetensors` or its shards and their index.
      model: a backbone of `models.create`, with `num_classes` as wanted, or a captioner.
      adapt: what may differ between file and model. "head": a classifier that is missing or of
        other classes starts as the model's own does, and one that the model lacks is left out.
        "image_size": a ViT's position embeddings are interpolated (bicubic, as by
        `transformers`' interpolate_pos_encoding). "channels": the first kernel is summed for grey
        pictures, else repeated and scaled, as by timm.
      channels: of the pictures that the model is for.
      image_size: of these, where the model's weights depend on it and no field says it.

    Returns:
      {"params": …} and, with batch norm, "batch_stats": float32 `jax.Array`s.

    Raises:
      UserError: the file is damaged, a pickle, or does not fit; what does not is named.
    """
    adapt = tuple(adapt)
    if unknown := [word for word in adapt if word not in adapting.ADAPTATIONS]:
        raise UsageError(f"adapt={unknown[0]!r}: must be among {', '.join(adapting.ADAPTATIONS)}")
    tensors = Tensors(path)
    arguments = adapting.inputs(model, channels, image_size)
    shapes = adapting.shapes(model, arguments)
    library, table = match(tensors, model, shapes)
    problems = _unexpected(tensors, table, model, library, adapt)
    variables, anew = {}, []
    for name, entry in table.items():
        found, differing = _compare(tensors, entry, shapes[name])
        word = adapting.adaptation_for(name, found, shapes[name]) if differing else None
        if differing and word not in adapt:
            hint = f' (adapt "{word}" {adapting.ADAPTATIONS[word]})' if word else ""
            problems += [problem + hint for problem in differing]
        elif word == "head":
            anew.append(name)
        elif not problems:
            array = target(tensors, entry)
            variables[name] = _adapted(word, array, model, shapes[name], path)
    if problems:
        more = [f"and {len(problems) - _TOLD} more"] if len(problems) > _TOLD else []
        told = "; ".join([*problems[:_TOLD], *more])
        raise UserError(f"{path} ({library}) does not fit {type(model).__name__}: {told}")
    variables |= adapting.fresh(model, anew, arguments)
    arrays = {name: jnp.asarray(array) for name, array in variables.items()}
    return unflatten_dict(arrays, sep="/")


def match(tensors: Tensors, model: nn.Module, shapes: adapting.Shapes) -> tuple[str, Table]:
    """The library whose names fit the file best, and its table. Raises UserError if none does."""
    candidates = [("jaxtag", own(shapes))]
    for library, table in mappings.tables(model).items():
        try:
            candidates.append((library, table(model)))
        except ValueError:  # it has no such model
            continue
    candidates += [(library, _base(table)) for library, table in candidates[1:]]
    library, table = max(candidates, key=lambda c: sum(name in tensors for name in source(c[1])))
    if not any(name in tensors for name in source(table)):
        first = ", ".join(sorted(tensors)[:3])
        libraries = ", ".join(dict.fromkeys(library for library, _ in candidates))
        raise UserError(
            f"{tensors.path} holds no weights of {type(model).__name__} under the names of "
            f"{libraries}; its first are {first or 'none: it is empty'}"
        )
    return library, table


def classes_in(tensors: Tensors, model: nn.Module) -> int:
    """How many classes the file's classifier has; 0 where it has none.

    Args:
      model: with some number of classes other than 0.
    """
    biases = ["params/head/bias"]
    for table in mappings.tables(model).values():
        try:
            biases += table(model)["params/head/bias"][1:]
        except ValueError:
            continue
    found = [tensors.shape(name)[0] for name in biases if name in tensors]
    return found[0] if found else 0


def _base(table: Table) -> Table:
    """The same for a file of the model without its head, where names lack the first word."""
    prefix = next(iter(table.values()))[1].partition(".")[0] + "."
    return {
        path: (layout, *(name.removeprefix(prefix) for name in names))
        for path, (layout, *names) in table.items()
    }


def _compare(
    tensors: Tensors, entry: tuple[str, ...], wanted: tuple[int, ...]
) -> tuple[tuple[int, ...] | None, list[str]]:
    """(our shape of what the file has, where it has all; what differs, in words)."""
    expected, problems = source_shapes(wanted, entry), []
    for name, shape in expected.items():
        if name not in tensors:
            problems.append(f"missing {name} {list(shape)}")
        elif tensors.shape(name) != shape:
            held = list(tensors.shape(name))
            problems.append(f"{name} is {held}, the model has {list(shape)}")
    if not problems or any(name not in tensors for name in expected):
        return None, problems
    try:
        return target(tensors, entry).shape, problems
    except ValueError:  # not even the number of dimensions is right
        return None, problems


def _unexpected(
    tensors: Tensors, table: Table, model: nn.Module, library: str, adapt: tuple[str, ...]
) -> list[str]:
    """What the file has and the model has not, in words."""
    known = set(source(table))
    extra = [name for name in tensors if name not in known and not _EXTRAS.search(name)]
    heads = _heads(model, library) if extra else set()
    if "head" in adapt:
        extra = [name for name in extra if name not in heads]
    return [
        f"unexpected {name} {list(tensors.shape(name))}"
        + (' (adapt "head" leaves it out)' if name in heads else "")
        for name in extra
    ]


def _heads(model: nn.Module, library: str) -> set[str]:
    """Their names of the classifier that `model` lacks."""
    if getattr(model, "num_classes", None) != 0:
        return set()
    if library == "jaxtag":
        return {"params/head/kernel", "params/head/bias"}
    table = mappings.tables(model)[library](model.clone(num_classes=1))
    return {name for path, (_, *names) in table.items() if "/head/" in path for name in names}


def _adapted(
    word: str | None, array: Any, model: nn.Module, wanted: tuple[int, ...], path: str | Path
) -> Any:
    if word == "image_size":
        try:
            return adapting.positions(array, getattr(model, "encoder", model), wanted)
        except ValueError as error:
            raise UserError(f"{path}: {error}") from error
    return adapting.first_kernel(array, wanted[2]) if word == "channels" else array
