"""CPU time and memory to read a table of a million rows beside as many images, each in a process.

  python benchmarks/own_tables.py --rows=1000000

The images are empty files of different sizes in a temporary folder, so that the time is that of
listing, reading and locating; no image is decoded. A row is a caption of its own image
(`captions`), one of five of an image (`five`), or tags (`tags`); the same as Parquet (`parquet`).
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

FORMS = {
    "captions": ("captions.csv", "file,caption\n", 1, "{n:08}.jpg,A red bus number {n} in rain.\n"),
    "five": ("captions.csv", "file,caption\n", 5, "{n:08}.jpg,A red bus in the rain at {k}.\n"),
    "tags": ("tags.csv", "file,tags\n", 1, "{n:08}.jpg,bus;rain;street {m}\n"),
}


def write_source(folder: Path, form: str, rows: int) -> None:
    """Writes a table and links images."""
    name, header, per_image, row = FORMS["captions" if form == "parquet" else form]
    images = folder / "images"
    images.mkdir(parents=True)
    for n in range(rows // per_image):
        if n % 1000 == 0:
            (part := images / f"{n // 1000:04}").mkdir()
        path = part / f"{n:08}.jpg"
        path.touch()
        os.truncate(path, 10_000 + n * 7919 % 1_000_003)  # different sizes, as photos have
    lines = (row.format(n=n // per_image, k=n, m=n % 97) for n in range(rows))
    if form == "parquet":
        import pyarrow
        import pyarrow.parquet

        pairs = [line.rstrip("\n").split(",", 1) for line in lines]
        files, texts = map(list, zip(*pairs, strict=True))
        table = pyarrow.table({"file_name": files, "text": texts})
        pyarrow.parquet.write_table(table, folder / "metadata.parquet")
    else:
        with (folder / name).open("w") as file:
            file.write(header)
            file.writelines(lines)


def measure(folder: Path) -> dict[str, float]:
    """Reads the table (first), then lists the source as a whole; CPU seconds and peak MB."""
    from jaxtag.datasets.annotation_tables import read_table
    from jaxtag.datasets.custom import custom_dataset
    from jaxtag.datasets.source_files import SourceFiles

    base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    (table_file,) = (path for path in folder.iterdir() if path.is_file())
    start = time.process_time()
    with SourceFiles(folder, lambda name: False) as source:
        walked = time.process_time()
        rows = len(read_table(source, table_file.name).rows)
        read = time.process_time()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    with custom_dataset("mine").open_listing(folder) as listing:
        images = sum(map(len, listing.splits.values()))
    listed = time.process_time()
    return {
        "rows": rows,
        "images": images,
        "walk_cpu_seconds": round(walked - start, 1),
        "read_cpu_seconds": round(read - walked, 1),
        "list_cpu_seconds": round(listed - read, 1),
        "imports_mb": round(base),
        "read_peak_mb": round(peak),
        "list_peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--forms", default=",".join([*FORMS, "parquet"]))
    parser.add_argument("--measure", type=Path)
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(measure(args.measure)))
        return
    for form in args.forms.split(","):
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder) / "own"
            write_source(source, form, args.rows)
            command = [sys.executable, __file__, f"--measure={source}"]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            print(form, done.stdout.strip(), flush=True)


if __name__ == "__main__":
    main()
