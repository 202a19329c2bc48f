"""Architectures against data sets: trains each with the same budget and writes the table.

    python -m jaxtag.compare --output=DIR --datasets=mnist,cifar10 --num_images=60000

Each cell is a run of jaxtag.train (configuration `compare`) in DIR/cells; what was finished before
is not run again, and what was interrupted goes on. Data sets have to be prepared (jaxtag.prepare);
a cell without its data says so. Written to DIR: table.md, table.csv, table.svg. Beside our figures
stand those of the papers, which trained longer or on larger pictures.
"""

import sys
from pathlib import Path

from absl import flags

from jaxtag import cli
from jaxtag.comparison import runner, tables
from jaxtag.comparison.grid import ARCHITECTURES, DATASETS
from jaxtag.errors import UsageError, UserError, did_you_mean

FLAGS = flags.FLAGS


def define_flags() -> None:
    flags.DEFINE_string("output", None, "Folder for the cells and the table.")
    flags.DEFINE_list("architectures", list(ARCHITECTURES), "Rows, with commas between them.")
    flags.DEFINE_list("datasets", list(DATASETS), "Columns, with commas between them.")
    flags.DEFINE_integer(
        "num_images",
        60_000,
        "Training pictures that each cell sees, repeats counted.",
        lower_bound=64,
    )
    cli.define_alias("pictures", "num_images")
    flags.DEFINE_integer("seeds", 1, "Runs of each cell.", lower_bound=1)
    flags.DEFINE_string("data_dir", None, "Where data sets are kept.")


def main(_: list[str]) -> int:
    cli.require("output", ": the folder for the runs and the table")
    _check("architectures", FLAGS.architectures, ARCHITECTURES)
    _check("datasets", FLAGS.datasets, DATASETS)
    output, failed, found = Path(FLAGS.output), 0, {}
    for dataset in FLAGS.datasets:
        for architecture in FLAGS.architectures:
            results = _cell(architecture, dataset, output / "cells")
            failed += isinstance(results, str) and results.startswith("failed")
            found[architecture, dataset] = results
            _write(output, found)
    print(tables.as_text(found))
    return 1 if failed else 0


def _cell(architecture: str, dataset: str, folder: Path) -> list[dict] | str:
    """Its results, one a seed, or why there are none."""
    results = []
    for seed in range(FLAGS.seeds):
        cell = runner.Cell(architecture, dataset, FLAGS.num_images, seed)
        if reason := runner.skip_reason(cell, FLAGS.data_dir):
            return reason
        print(f"{cell.name} …", file=sys.stderr)
        try:
            results.append(runner.run(cell, folder, FLAGS.data_dir))
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            return f"failed: {cell.name}"
    return results


def _write(output: Path, found: tables.Found) -> None:
    forms = {"table.md": tables.as_markdown, "table.csv": tables.as_csv, "table.svg": tables.as_svg}
    try:
        for name, form in forms.items():
            partial = output / f"{name}.partial"
            output.mkdir(parents=True, exist_ok=True)
            partial.write_text(form(found), encoding="utf-8")
            partial.replace(output / name)
    except OSError as error:
        raise UserError(f"--output={output} cannot be written: {error.strerror}") from error


def _check(flag: str, given: list[str], known: dict) -> None:
    for name in given:
        if name not in known:
            raise UsageError(f"--{flag}: {name!r} is unknown{did_you_mean(name, known)}")


def run() -> None:
    cli.run(main, define_flags)


if __name__ == "__main__":
    run()
