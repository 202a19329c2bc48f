"""CPU time and memory to read a table of a million rows of one's own data.

  python benchmarks/own_tables.py --rows=1000000

Each form is measured in a process of its own: `captions` and `tags` (CSV), `lines` (JSON-lines) and
`parquet` name another image in each row, and the table alone is read; `listed` is captions.csv with
five rows an image, beside the images (empty files of different sizes), and all is done that comes
before an image is opened: detection, locating, merging, splits. Put $TMPDIR on a fast disk.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

CAPTION = "{n:08}.jpg,A red bus with the number {n} in the rain.\n"
TABLES = {
    "captions": ("captions.csv", "file,caption\n", CAPTION),
    "tags": ("tags.csv", "file,tags\n", "{n:08}.jpg,bus;rain;street {m}\n"),
    "lines": ("tags.jsonl", "", '{{"file": "{n:08}.jpg", "tags": ["bus", "street {m}"]}}\n'),
    "parquet": ("metadata.parquet", "", CAPTION),
    "listed": ("captions.csv", "file,caption\n", CAPTION),
}
ROWS_PER_IMAGE = 5  # of `listed`


def write_source(folder: Path, form: str, rows: int) -> None:
    """Writes a table and, where all is listed, the images."""
    name, header, row = TABLES[form]
    folder.mkdir(parents=True)
    per_image = ROWS_PER_IMAGE if form == "listed" else 1
    lines = (row.format(n=number // per_image, m=number % 97) for number in range(rows))
    if form == "parquet":
        import pyarrow
        import pyarrow.parquet

        pairs = [line.rstrip("\n").split(",", 1) for line in lines]
        files, texts = map(list, zip(*pairs, strict=True))
        table = pyarrow.table({"file_name": files, "text": texts})
        pyarrow.parquet.write_table(table, folder / name)
        return
    with (folder / name).open("w") as file:
        file.write(header)
        file.writelines(lines)
    for number in range(rows // per_image if form == "listed" else 0):
        part = f"{folder}/{number // 1000:04}"
        if number % 1000 == 0:
            os.mkdir(part)
        descriptor = os.open(f"{part}/{number:08}.jpg", os.O_CREAT | os.O_WRONLY)
        os.truncate(descriptor, 10_000 + number * 7919 % 1_000_003)  # as different as photos are
        os.close(descriptor)


def measure(folder: Path, is_listed: bool) -> dict[str, float]:
    """Rows, CPU seconds, and the memory of the process before and at its peak."""
    from jaxtag.datasets.annotation_tables import read_table
    from jaxtag.datasets.custom import custom_dataset
    from jaxtag.datasets.source_files import SourceFiles

    base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    start = time.process_time()
    if is_listed:
        with custom_dataset("mine").open_listing(folder) as listing:
            images = (image for images in listing.splits.values() for image in images)
            rows = sum(len(image.fields["captions"]) for image in images)
    else:
        (table,) = folder.iterdir()
        with SourceFiles(folder) as source:
            rows = len(read_table(source, table.name).rows)
    return {
        "rows": rows,
        "cpu_seconds": round(time.process_time() - start, 1),
        "imports_mb": round(base),
        "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--forms", default=",".join(TABLES))
    parser.add_argument("--measure", type=Path)
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(measure(args.measure, args.forms == "listed")))
        return
    for form in args.forms.split(","):
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder) / "own"
            write_source(source, form, args.rows)
            command = [sys.executable, __file__, f"--measure={source}", f"--forms={form}"]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            print(form, done.stdout.strip(), flush=True)


if __name__ == "__main__":
    main()
