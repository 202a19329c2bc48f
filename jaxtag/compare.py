"""Compares architectures on data sets: trains each with the same budget and writes a table.

    python -m jaxtag.compare --output=DIR --datasets=mnist,cifar10 --num_images=60000

Each cell is a run of jaxtag.train (configuration `compare`) in DIR/cells; finished cells are not
run again, and interrupted ones go on. Data sets have to be prepared (jaxtag.prepare); a cell
without its data or weights says so. The rows …_pretrained start from published weights, which they
keep frozen: EfficientNet-Lite0's come with the extra `weights`, SqueezeNet's are given by
--weights=squeezenet_pretrained=FILE. Their features are computed once and kept in the user's cache;
the time of training in the table leaves that out. Written to DIR: table.md, table.csv, table.svg.
Next to our figures stand those of the papers, which trained longer or on larger images.
"""

import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any

from absl import flags

from jaxtag import cli
from jaxtag.comparison import runner, tables
from jaxtag.comparison.grid import ARCHITECTURES, DATASETS
from jaxtag.errors import UsageError, UserError, did_you_mean, printable
from jaxtag.storage.atomic_file import write_text
from jaxtag.storage.paths import is_store, make_path

FLAGS = flags.FLAGS


def define_flags() -> None:
    flags.DEFINE_string("output", None, "Folder for the cells and the table.")
    flags.DEFINE_list("architectures", list(ARCHITECTURES), "Rows, with commas between them.")
    flags.DEFINE_list("datasets", list(DATASETS), "Columns, with commas between them.")
    flags.DEFINE_integer(
        "num_images",
        60_000,
        "Training images that each cell sees, repeats counted.",
        lower_bound=64,
    )
    cli.define_alias("pictures", "num_images")
    flags.DEFINE_integer("seeds", 1, "Runs of each cell.", lower_bound=1)
    flags.DEFINE_string("data_dir", None, "Where data sets are kept.")
    flags.DEFINE_list("weights", [], "Weights of pretrained rows that no package brings: ROW=REF,…")


def main(_: list[str]) -> int:
    cli.require("output", ": the folder for the runs and the table")
    _check_names("architectures", FLAGS.architectures, ARCHITECTURES)
    _check_names("datasets", FLAGS.datasets, DATASETS)
    weights = _parse_weights(FLAGS.weights)
    output, failed = make_path(FLAGS.output, "--output"), False
    if is_store(output):
        raise UsageError(f"--output={output}: the logs of the runs need a local folder")
    cells = [(row, dataset) for dataset in FLAGS.datasets for row in FLAGS.architectures]
    results: tables.Results = dict.fromkeys(cells, "not run yet")
    for architecture, dataset in cells:
        row = ARCHITECTURES[architecture].features_of or architecture
        runs = _run_cell(architecture, dataset, output / "cells", weights.get(row, ""))
        failed = failed or (isinstance(runs, str) and runs.startswith("failed"))
        results[architecture, dataset] = runs
        _write_tables(output, results)
    print(tables.as_text(results))
    return 1 if failed else 0


def _parse_weights(texts: list[str]) -> dict[str, str]:
    """Row -> REF, from --weights. Raises UsageError for a row that starts from no weights."""
    for text in texts:
        if "=" not in text:
            raise UsageError(f"--weights={text}: must be ROW=REF")
    weights = dict(text.split("=", 1) for text in texts)
    _check_names("weights", weights, ARCHITECTURES)
    for name in weights:
        row = ARCHITECTURES[name]
        if row.features_of is not None:
            raise UsageError(
                f"--weights: {name} has the features of {row.features_of}: give the weights of that"
            )
        if row.pretrained is None:
            raise UsageError(f"--weights: {name} starts from random weights")
    return weights


def _run_cell(
    architecture: str, dataset: str, folder: Path, weights: str
) -> list[dict[str, Any]] | str:
    """Its results, one for each seed, or why there are none."""
    results = []
    for seed in range(FLAGS.seeds):
        cell = runner.Cell(architecture, dataset, FLAGS.num_images, seed, weights)
        if reason := runner.skip_reason(cell, FLAGS.data_dir):
            return reason
        print(f"{cell.name} …", file=sys.stderr)
        try:
            results.append(runner.run(cell, folder, FLAGS.data_dir))
        except UserError as error:
            print(f"error: {printable(str(error))}", file=sys.stderr)
            return f"failed: {cell.name}"
    return results


def _write_tables(output: Path, results: tables.Results) -> None:
    write_text(output / "table.md", tables.as_markdown(results))
    write_text(output / "table.csv", tables.as_csv(results))
    write_text(output / "table.svg", tables.as_svg(results))


def _check_names(flag: str, names: Collection[str], choices: Collection[str]) -> None:
    for name in names:
        if name not in choices:
            raise UsageError(f"--{flag}: {name!r} is unknown{did_you_mean(name, choices)}")


def run() -> None:
    cli.run(main, define_flags)


if __name__ == "__main__":
    run()
