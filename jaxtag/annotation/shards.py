"""Lines of a job of several processes: a file each, merged by one command.

Process 12 of 64 writes `OUTPUT-00012-of-00064.jsonl` for `OUTPUT.jsonl`: the lines of a stretch of
the images, so that the files one after the other are the lines of one process.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from jaxtag.distributed import coordination
from jaxtag.errors import UserError
from jaxtag.tasks.base import Row


def shard_path(output: Path, index: int, count: int) -> Path:
    """The file of one process for an output of the job."""
    return output.with_name(f"{output.stem}-{index:05}-of-{count:05}{output.suffix}")


def own_stretch(names: Sequence[str], index: int, count: int) -> list[str]:
    """The images of one process: stretches that differ by one image at most.

    Raises:
        UserError: The processes list other images.
    """
    digest = hashlib.sha256("\0".join(names).encode("utf-8", "surrogateescape")).hexdigest()
    expected = coordination.run_on_process_zero(lambda: [len(names), digest])
    if expected != [len(names), digest]:
        raise UserError(
            f"process {index} lists {len(names)} images, and process 0 lists {expected[0]}, or "
            "others: all processes must see the same files, of which none may come or go"
        )
    return list(names[len(names) * index // count : len(names) * (index + 1) // count])


def merged_rows(output: Path) -> Iterator[Row]:
    """The rows of all shards of an output, in the order of the images.

    Raises:
        UserError: There are none, some are missing, or they are of jobs of different sizes.
    """
    paths = _all_shards(output)
    return (json.loads(line) for path in paths for line in path.open(encoding="utf-8"))


def _all_shards(output: Path) -> list[Path]:
    ending = re.compile(
        rf"{re.escape(output.stem)}-(\d{{5}})-of-(\d{{5}}){re.escape(output.suffix)}"
    )
    paths = {}
    for path in output.parent.glob(f"*{output.suffix}"):
        if match := ending.fullmatch(path.name):
            paths[int(match[1]), int(match[2])] = path
    counts = sorted({count for _, count in paths})
    if not counts:
        raise UserError(f"--merge: there is no {output.stem}-*-of-*{output.suffix} beside {output}")
    if len(counts) > 1:
        sizes = " and ".join(map(str, counts))
        raise UserError(
            f"--merge: there are lines of jobs of {sizes} processes beside {output}: delete those "
            "that are not meant"
        )
    missing = [index for index in range(counts[0]) if (index, counts[0]) not in paths]
    if missing:
        example = shard_path(output, missing[0], counts[0])
        raise UserError(
            f"--merge: {len(missing)} of {counts[0]} files are missing, such as {example}: start "
            "the same job again, which goes on where it was stopped"
        )
    return [paths[key] for key in sorted(paths)]
