"""What annotate writes, corrected by hand, is prepared and trained on as it is."""

import csv
import json
import shutil
from pathlib import Path

import pytest
from calling import call
from PIL import Image

from jaxtag.datasets.prepared import open_split
from jaxtag.inference.writers import CsvWriter


@pytest.fixture(scope="module")
def album(tmp_path_factory) -> Path:
    """24 pictures in two folders, and what lies among pictures."""
    folder = tmp_path_factory.mktemp("round_trip") / "album"
    for number in range(24):
        path = folder / ("2023", "2024 =trip")[number % 2] / f"{number:02}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 40), (10 * number, 250 - 10 * number, 60)).save(path)
    (folder / "@eaDir").mkdir()
    shutil.copy(path, folder / "@eaDir" / "SYNOPHOTO_THUMB_M.jpg")
    (folder / "Thumbs.db").write_bytes(b"thumbs")
    return folder


def edit(table: Path, column: str, texts: dict[int, str]) -> None:
    """Writes the table as a spreadsheet does, some cells changed."""
    rows = list(csv.DictReader(table.read_text("utf-8-sig").splitlines()))
    for number, text in texts.items():
        rows[number][column] = text
    with table.open("w", encoding="utf-8-sig", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=";", quoting=csv.QUOTE_ALL)
        writer.writeheader()
        writer.writerows(rows)


def test_captions_annotated_corrected_prepared_trained(tiny_run, own_config, album, tmp_path):
    copy = tmp_path / "album"
    shutil.copytree(album, copy)
    table = copy / "captions.csv"
    flags = [f"--workdir={tiny_run}", f"--output={tmp_path}/lines.jsonl", f"--csv={table}"]
    assert call("annotate", *flags, copy).status == 0
    edit(table, "caption", {0: "a corrected field", 5: '=a "quoted"; field'})
    data = ["--dataset=corrected", f"--data_dir={tmp_path}/data"]
    done = call("prepare", *data, f"--source={copy}")
    assert done.status == 0, done.err
    captions = {}
    for split in ("train", "validation"):
        source = open_split("corrected", split, str(tmp_path / "data"))
        for record in source.iter_fields(["file", "captions"]):
            captions[str(record["file"])] = [str(text) for text in record["captions"]]
    assert len(captions) == 24
    texts = {text for one in captions.values() for text in one}
    assert {"a corrected field", '=a "quoted"; field'} <= texts
    settings = {"dataset": "corrected", "data_dir": f"{tmp_path}/data"}
    flags = [f"--config.data.{name}={value}" for name, value in settings.items()]
    steps = ["--config.total_steps=1", "--config.evaluate_every=1", "--config.checkpoint_every=1"]
    done = call("train", f"--config={own_config}", f"--workdir={tmp_path}/run", *flags, *steps)
    assert done.status == 0, done.err
    assert json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])


def test_tags_corrected_and_prepared(album, tmp_path):
    copy = tmp_path / "album"
    shutil.copytree(album, copy)
    writer = CsvWriter(copy / "tags.csv")
    for number, path in enumerate(sorted(copy.glob("2*/*.jpg"))):
        tags = [{"tag": "dog", "score": 0.9}, {"tag": ("sea", "=wet")[number % 2], "score": 0.5}]
        writer.write({"file": str(path), "tags": tags})
    writer.close()
    edit(copy / "tags.csv", "tags", {0: "dog; cat", 1: ""})
    done = call("prepare", "--dataset=tagged", f"--data_dir={tmp_path}/data", f"--source={copy}")
    assert done.status == 0, done.err
    names: set[str] = set()
    counts = []
    for split in ("train", "validation"):
        source = open_split("tagged", split, str(tmp_path / "data"))
        names |= set(source.features["tags"].feature.names)
        counts += [len(record["tags"]) for record in source.iter_fields(["tags"])]
    assert names == {"dog", "cat", "sea", "=wet"}
    assert sorted(counts) == [0, *[2] * 23]
