"""The table, the sidecar files and the gallery that annotate writes besides its lines."""

import csv
import json
import os
import shutil
import subprocess
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from PIL import Image

from jaxtag.errors import UserError
from jaxtag.inference import writers
from jaxtag.inference.writers.xmp import document

HOSTILE = '<img src=x onerror="document.title=1">'
DC = "{http://purl.org/dc/elements/1.1/}"
RDF = "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}"


@pytest.fixture
def lines(tmp_path) -> list[dict]:
    """What annotate says of five files, one of them broken, names and tags of all kinds."""
    album = tmp_path / "album"
    album.mkdir()
    names = ["dog.jpg", "déjà:vu #1.png", f"{HOSTILE.replace('/', '')}.png", "tall.png"]
    sizes = [(640, 480), (50, 40), (30, 30), (10, 900)]
    for name, size in zip(names, sizes, strict=True):
        Image.new("RGB", size, (200, 30, 30)).save(album / name)
    tags = [
        [("dog", 0.9), ("grass", 0.4)],
        [("cat", 0.8), ("dog", 0.6)],
        [(HOSTILE, 0.7), ("a; b, c", 0.6)],
        [],
    ]
    results = [
        {"file": str(album / name), "tags": [{"tag": t, "score": s} for t, s in one]}
        for name, one in zip(names, tags, strict=True)
    ]
    results[3]["caption"] = "a red line & nothing else"
    results.append({"file": str(album / "broken.jpg"), "error": "the file is empty"})
    (album / "broken.jpg").touch()
    return results


def write(writer, lines: list[dict]) -> None:
    for line in lines:
        writer.write(line)
    writer.close()


def test_table(lines, tmp_path):
    write(writers.CsvWriter(tmp_path / "t.csv"), lines)
    with open(tmp_path / "t.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["file"] for row in rows] == [line["file"] for line in lines]
    assert (rows[0]["tags"], rows[0]["scores"]) == ("dog; grass", "0.9; 0.4")
    assert rows[2]["tags"] == f"{HOSTILE}; a; b, c"
    assert rows[3]["caption"] == "a red line & nothing else"
    assert rows[4]["error"] == "the file is empty"


def test_sidecars_hold_keywords(lines, tmp_path):
    write(writers.XmpWriter(0.5), lines)
    results = sorted(path.name for path in (tmp_path / "album").glob("*.xmp"))
    assert results == sorted(f"{Path(line['file']).name}.xmp" for line in lines[:4])
    assert not list((tmp_path / "album").glob(".*"))
    root = ElementTree.parse(f"{lines[2]['file']}.xmp").getroot()
    assert [item.text for item in root.iter(f"{RDF}li")] == [HOSTILE, "a; b, c"]
    assert next(root.iter(f"{DC}subject"))[0].tag == f"{RDF}Bag"
    first = ElementTree.parse(f"{lines[0]['file']}.xmp").getroot()
    assert [item.text for item in first.iter(f"{RDF}li")] == ["dog"]  # grass is below 0.5
    last = ElementTree.parse(f"{lines[3]['file']}.xmp").getroot()
    assert next(last.iter(f"{DC}description"))[0][0].text == "a red line & nothing else"


def test_sidecars_of_other_programs_stay(lines, caplog):
    path = Path(f"{lines[0]['file']}.xmp")
    path.write_text("<x:xmpmeta x:xmptk='somebody'>edits</x:xmpmeta>")
    writer = writers.XmpWriter(0.5)
    write(writer, lines)
    assert path.read_text().count("edits") == 1
    assert writer.num_skipped == 1
    again = writers.XmpWriter(0.0)  # one's own are replaced
    write(again, lines[1:2])
    assert again.num_skipped == 0


def test_sidecars_that_cannot_be_written_are_counted(lines, caplog):
    writer = writers.XmpWriter(0.5)
    absent = [{**lines[0], "file": f"/absent/folder/{n}.jpg"} for n in range(3)]
    write(writer, [*absent, lines[1]])
    assert writer.num_failed == 3
    messages = [record.getMessage() for record in caplog.records]
    assert messages == [
        "/absent/folder/0.jpg.xmp cannot be written: No such file or directory",
        "3 sidecar file(s) could not be written",
    ]
    assert Path(f"{lines[1]['file']}.xmp").exists()


def test_sidecars_are_xml_whatever_a_tag_holds():
    text = document(["nul\0", "half \udc80", "\ufffe", "]]> & <b>"], "")
    root = ElementTree.fromstring(text.split("?>", 1)[1].rsplit("<?", 1)[0])
    assert [item.text for item in root.iter(f"{RDF}li")] == ["nul", "half ", None, "]]> & <b>"]


def data_of(folder: Path) -> list[dict]:
    text = (folder / "pictures.js").read_text("utf-8")
    assert text.startswith("window.PICTURES = [\n") and text.endswith(",\n];\n")
    return json.loads(text.removeprefix("window.PICTURES = ").removesuffix(",\n];\n") + "]")


def test_gallery_holds_thumbnails_and_links(lines, tmp_path):
    folder = tmp_path / "pages" / "gallery"
    for _ in range(2):  # a gallery is replaced
        write(writers.GalleryWriter(folder, num_threads=2), lines)
    entries = data_of(folder)
    assert [entry["file"] for entry in entries] == [line["file"] for line in lines]
    assert entries[0]["tags"] == [["dog", 0.9], ["grass", 0.4]]
    assert entries[1]["link"] == "./../../album/d%C3%A9j%C3%A0%3Avu%20%231.png"
    assert entries[4]["thumbnail"] == "" and entries[4]["error"] == "the file is empty"
    sizes = [Image.open(folder / entry["thumbnail"]).size for entry in entries[:4]]
    assert sizes == [(256, 192), (50, 40), (30, 30), (3, 256)]
    assert not list(folder.glob("*.partial"))


def test_gallery_goes_on_in_the_folder_of_a_killed_run(lines, tmp_path):
    folder = tmp_path / "gallery"
    killed = writers.GalleryWriter(folder, num_threads=1)
    killed.write(lines[0])
    killed._pool.shutdown()
    assert not (folder / "index.html").exists()
    write(writers.GalleryWriter(folder, num_threads=1), lines)
    assert len(data_of(folder)) == len(lines)


def test_gallery_never_takes_over_a_folder(lines, tmp_path):
    (tmp_path / "album" / "notes.txt").touch()
    with pytest.raises(UserError, match=r"--gallery=.*album holds other files"):
        writers.GalleryWriter(tmp_path / "album", num_threads=1)
    with pytest.raises(UserError, match="cannot be written"):
        writers.GalleryWriter(tmp_path / "album" / "notes.txt", num_threads=1)


BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "chrome"))), None)


@pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed")
def test_gallery_in_a_browser(lines, tmp_path):
    folder = tmp_path / "gallery"
    write(writers.GalleryWriter(folder, num_threads=2), lines)

    def page(query: str) -> str:
        """The page as the browser has it after its program ran."""
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=3000"]
        options += [f"--user-data-dir={tmp_path}/profile", "--dump-dom"]
        address = f"{folder.as_uri()}/index.html{query}"
        environment = {**os.environ, "HOME": str(tmp_path)}
        done = subprocess.run(
            [BROWSER, *options, address], capture_output=True, timeout=120, env=environment
        )
        return done.stdout.decode()

    whole = page("")
    assert "5 of 5 pictures" in whole and whole.count("<figure>") == 5
    # A hostile tag and name are text; nothing of them became an element.
    assert "<title>Pictures</title>" in whole and "<img src=x" not in whole
    assert "&lt;img src=x" in whole
    assert "2 of 5 pictures" in page("#dog") and "1 of 5 pictures" in page("#dog%20cat")
    assert "2 of 5 pictures" in page("#%22dog%22") and "0 of 5 pictures" in page("#%22do%22")
    assert "1 of 5 pictures" in page("#line") and "1 of 5 pictures" in page("#empty")
