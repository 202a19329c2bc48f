"""Whether the arrays of a checkpoint are those that a run wants, under today's or older names."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
from etils import epath

from jaxtag.errors import UserError
from jaxtag.training import checkpoint_manifest


def array_shapes(state: Any) -> dict[str, list]:
    """Path in the tree -> [shape, dtype] of each array."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): [list(leaf.shape), str(leaf.dtype)]
        for path, leaf in jax.tree.leaves_with_path(state)
    }


def check_fit(path: epath.Path, abstract_state: Any, partial: bool) -> None:
    """Compares before reading: Orbax would convert another dtype without a word."""
    saved, configured = checkpoint_manifest.read(path).notes["arrays"], array_shapes(abstract_state)
    names = configured if partial else {**saved, **configured}
    differing = [name for name in names if saved.get(name) != configured.get(name)]
    if differing:
        lines = [
            f"  {name}: saved {_format_array(saved.get(name))}, "
            f"configured {_format_array(configured.get(name))}"
            for name in differing[:8]
        ]
        more = [f"  and {len(differing) - 8} more"] if len(differing) > 8 else []
        raise UserError(
            "\n".join([f"checkpoint {path} does not fit the configured model:", *lines, *more])
        )


def fields(path: epath.Path) -> set[str]:
    """The fields of the state that a checkpoint holds."""
    return {name.split("/")[0] for name in checkpoint_manifest.read(path).notes["arrays"]}


def old_names(path: epath.Path, renamed: Mapping[str, str]) -> dict[str, str]:
    """Today's name -> the older one, of the fields that a checkpoint has under the latter."""
    saved = fields(path)
    return {new: old for old, new in renamed.items() if old in saved and new not in saved}


def with_old_names(state: Any, old_names: Mapping[str, str]) -> dict[str, Any]:
    """The fields of a dataclass as a dictionary, as an older version named them."""
    fields = dataclasses.fields(state)
    return {old_names.get(f.name, f.name): getattr(state, f.name) for f in fields}


def _format_array(array: list | None) -> str:
    return "nothing" if array is None else f"{array[1]}{array[0]}"
