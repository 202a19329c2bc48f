"""Every prediction of an evaluation in one file, for analyses of one's own."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxtag.data.sources import Source
from jaxtag.errors import UsageError
from jaxtag.storage import atomic_file
from jaxtag.storage.atomic_file import AtomicFile
from jaxtag.tasks.base import Evaluation

_SETTING = "--predictions"
_SUFFIXES = (".jsonl", ".npz", ".parquet")


def check_path(path: Path) -> None:
    """Raises UsageError where the format is not known, or its library is missing."""
    if path.suffix.lower() not in _SUFFIXES:
        raise UsageError(f"{_SETTING}={path}: must end in {', '.join(_SUFFIXES)}")
    if path.suffix.lower() == ".parquet":
        try:
            import pyarrow.parquet  # noqa: F401
        except ImportError:
            raise UsageError(
                f"{_SETTING}={path}: pip install pyarrow, or take .jsonl or .npz"
            ) from None


def write_predictions(path: Path, evaluation: Evaluation, names: Sequence[str]) -> None:
    """Writes a row for each image that was decoded: its file, the truth, all scores.

    JSON lines name labels and tags. Columns of npz and Parquet are those of
    `Evaluation.predictions`, with `index` (the position in the split) and `file` (in npz `files`);
    labels are numbers, whose names are `names` in npz and in Parquet's metadata.

    Args:
        path: .jsonl, .npz or .parquet.
        evaluation: of a split.
        names: of labels or tags, by number; empty for a task without.

    Raises:
        UserError: it cannot be written.
    """
    columns: dict[str, Any] = {"index": evaluation.index}
    files = _files(evaluation.source, evaluation.index)
    if files is not None:
        columns["file"] = files
    columns |= evaluation.predictions()
    suffix = path.suffix.lower()
    if suffix == ".jsonl":
        file = AtomicFile(path, _SETTING)
        try:
            for row in _rows(columns, names):
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
            file.finish()
        finally:
            file.close()
        return
    with atomic_file.replacing(path, _SETTING) as partial, partial.open("wb") as output:
        if suffix == ".npz":
            arrays: dict[str, Any] = {name: _as_array(values) for name, values in columns.items()}
            if "file" in arrays:  # numpy's own argument
                arrays["files"] = arrays.pop("file")
            np.savez_compressed(output, names=np.array(names, np.str_), **arrays)
        else:
            _write_parquet(output, columns, names)


def _files(source: Source, index: np.ndarray) -> list[str] | None:
    """The file of each image, where the data set has them."""
    if "file" not in source.features:
        return None
    files = [str(record["file"]) for record in source.iter_fields(["file"])]
    return [files[position] for position in index.tolist()]


def _rows(columns: Mapping[str, Any], names: Sequence[str]) -> Iterator[dict[str, Any]]:
    for number in range(len(columns["index"])):
        yield {name: _value(values[number], names, name) for name, values in columns.items()}


def _value(value: Any, names: Sequence[str], column: str) -> Any:
    """A cell as JSON: a label by its name, tags as their names, scores by name."""
    if isinstance(value, np.ndarray) and names and value.shape == (len(names),):
        if value.dtype == bool:
            return [names[i] for i in np.flatnonzero(value).tolist()]
        return {n: round(float(v), 6) for n, v in zip(names, value, strict=True)}
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, np.generic):
        value = value.item()
    if column in ("label", "prediction") and isinstance(value, int) and names:
        return names[value]
    return value


def _as_array(values: Any) -> np.ndarray:
    """A column as an array; lists of texts as one text with a line for each."""
    if isinstance(values, np.ndarray):
        return values
    return np.array([v if isinstance(v, str) else "\n".join(v) for v in values], np.str_)


def _write_parquet(output: Any, columns: Mapping[str, Any], names: Sequence[str]) -> None:
    import pyarrow
    import pyarrow.parquet

    table = pyarrow.table(
        {
            name: list(values) if isinstance(values, np.ndarray) and values.ndim > 1 else values
            for name, values in columns.items()
        },
        metadata={"names": json.dumps(list(names))},
    )
    pyarrow.parquet.write_table(table, output)
