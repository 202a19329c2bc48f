"""Prepares a data set in shards, by this process or by the workers of Apache Beam."""

import functools
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from jaxtag.datasets import write
from jaxtag.datasets.builders import NAMES
from jaxtag.datasets.sharded import shards
from jaxtag.datasets.sharded.worklists import Plan, make_plan
from jaxtag.datasets.summary import SUMMARY, Summary
from jaxtag.errors import UsageError
from jaxtag.storage.atomic_file import write_text
from jaxtag.storage.paths import is_store

_FOLDER = ".shards"  # of work lists, shards and reports, until all are there


def prepare_in_shards(
    name: str,
    table: Path,
    data_dir: Path,
    num_shards: int,
    *,
    beam_options: Sequence[str] | None = None,
    overwrite: bool = False,
    keep_exif: bool = False,
    num_threads: int = 1,
) -> Summary:
    """Writes `data_dir/NAME/1.0.0` from a table of JSON lines, unless it is there already.

    The table is dealt to shards in one pass that holds no line of it; then each shard is written by
    itself. What was stopped goes on with the same call: shards that are there stay.

    Args:
        table: see `worklists.make_plan`.
        num_shards: of each split.
        beam_options: flags of a pipeline of Apache Beam, such as `--runner=DirectRunner`, whose
            workers all see `table`, its images and `data_dir`; None: this process writes.
        num_threads: that read and decode, in each worker.

    Raises:
        UsageError: the name is that of a built-in data set, or Apache Beam is missing.
        UserError: the table or the disk is not as it must be.
    """
    if name in NAMES or not name.isidentifier():
        raise UsageError(f"--dataset={name}: --num_shards is for own data, under a new name")
    if store := next((path for path in (table, data_dir) if is_store(path)), None):
        raise UsageError(f"--num_shards reads and writes folders that are mounted: {store} is none")
    folder = data_dir / name
    final = folder / shards.VERSION
    with write.readable_errors(folder):
        if final.exists() and not overwrite:
            return write.load_summary(final)
        folder.mkdir(parents=True, exist_ok=True)
        with write.lock(folder, 0):
            plan = make_plan(name, table.absolute(), folder / _FOLDER, num_shards)
            run = functools.partial(
                shards.write_shards, plan, keep_exif=keep_exif, num_threads=num_threads
            )
            if beam_options is None:
                for shard in tqdm(range(num_shards), unit=" shards", disable=None, leave=False):
                    run(shard)
            else:
                _run_beam(run, num_shards, beam_options)
            summary = _finish(plan)
            write.put_in_place(shards.data_folder(plan), final)
            shutil.rmtree(folder / _FOLDER)
    summary.folder = final
    return summary


def _run_beam(run: "functools.partial[None]", num_shards: int, beam_options: Sequence[str]) -> None:
    try:
        import apache_beam
        from apache_beam.options.pipeline_options import PipelineOptions
    except ImportError as error:
        raise UsageError(
            f"--beam_pipeline_options needs Apache Beam: pip install 'jaxtag[beam]' ({error})"
        ) from error
    with apache_beam.Pipeline(options=PipelineOptions(list(beam_options))) as pipeline:
        _ = (
            pipeline
            | apache_beam.Create(range(num_shards))
            | apache_beam.Reshuffle()
            | apache_beam.Map(run)
        )


def _finish(plan: Plan) -> Summary:
    """Writes the description, the ledger and the summary into the folder of the version."""
    summary, ledger = shards.finish(plan)
    folder = shards.data_folder(plan)
    entries = (json.dumps(entry, ensure_ascii=False) + "\n" for entry in ledger)
    write_text(folder / write.LEDGER, "".join(entries))
    write_text(folder / SUMMARY, summary.to_json())
    return summary
