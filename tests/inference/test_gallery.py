"""The gallery: its files, and what a real browser shows of them."""

import csv
import html
import json
import re
import time
from pathlib import Path

import pytest
from browser import dump_dom, needs_browser
from PIL import Image
from prediction_rows import make_rows, write

from jaxtag.data import duplicates
from jaxtag.datasets import annotation_tables
from jaxtag.datasets.source_files import SourceFiles
from jaxtag.errors import UserError
from jaxtag.inference import writers
from jaxtag.inference.writers.gallery import doubt


@pytest.fixture
def lines(tmp_path) -> list[dict]:
    return make_rows(tmp_path)


def data_of(folder: Path) -> list[dict]:
    index = (folder / "pictures.js").read_text("utf-8")
    index = json.loads(index.removeprefix("window.GALLERY = ").removesuffix(";\n"))
    entries = []
    for number in range(index["files"]):
        text = (folder / "data" / f"{number:04}.js").read_text("utf-8")
        entries += json.loads(text.removeprefix("addImages(").removesuffix(");\n"))
    assert len(entries) == index["count"]
    return entries


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
    names = ["data", "index.html", "pictures.js", "thumbnails"]
    assert sorted(p.name for p in folder.iterdir()) == names


def test_gallery_has_one_writer(lines, tmp_path):
    folder = tmp_path / "gallery"
    first = writers.GalleryWriter(folder, num_threads=1)
    first.write(lines[0])
    with pytest.raises(UserError, match="is in use by process"):
        writers.GalleryWriter(folder, num_threads=1)
    first.close()
    assert Image.open(folder / data_of(folder)[0]["thumbnail"]).size == (256, 192)


def test_gallery_goes_on_in_the_folder_of_a_killed_run(lines, tmp_path):
    folder = tmp_path / "gallery"
    killed = writers.GalleryWriter(folder, num_threads=1)
    killed.write(lines[0])
    killed.abort()
    assert not (folder / "index.html").exists()
    write(writers.GalleryWriter(folder, num_threads=1), lines)
    assert len(data_of(folder)) == len(lines)


def test_gallery_never_takes_over_a_folder(lines, tmp_path):
    (tmp_path / "album" / "notes.txt").touch()
    with pytest.raises(UserError, match=r"--gallery=.*album holds other files"):
        writers.GalleryWriter(tmp_path / "album", num_threads=1)
    with pytest.raises(UserError, match="cannot be written"):
        writers.GalleryWriter(tmp_path / "album" / "notes.txt", num_threads=1)


def test_thumbnails_are_kept_while_they_are_newer_than_their_images(lines, tmp_path):
    folder = tmp_path / "gallery"
    write(writers.GalleryWriter(folder, num_threads=1), lines)
    before = {path: path.stat().st_mtime_ns for path in folder.glob("thumbnails/*/*.jpg")}
    changed, gone = Path(lines[0]["file"]), data_of(folder)[1]["thumbnail"]
    Image.new("RGB", (64, 64)).save(changed)
    write(writers.GalleryWriter(folder, num_threads=1), [lines[0], *lines[2:]])
    after = {path: path.stat().st_mtime_ns for path in folder.glob("thumbnails/*/*.jpg")}
    assert set(before) - set(after) == {folder / gone}
    (renewed,) = [path for path in after if after[path] != before[path]]
    assert renewed == folder / data_of(folder)[0]["thumbnail"]


def test_data_come_in_files_of_some_thousand(tmp_path):
    folder = tmp_path / "gallery"
    rows = [{"file": f"{n}.jpg", "error": "damaged"} for n in range(4001)]
    write(writers.GalleryWriter(folder, num_threads=1), rows)
    assert [entry["file"] for entry in data_of(folder)] == [row["file"] for row in rows]
    assert len(list((folder / "data").iterdir())) == 3
    write(writers.GalleryWriter(folder, num_threads=1), rows[:1])
    assert len(list((folder / "data").iterdir())) == 1


def test_doubt():
    def tagged(*scores: float) -> dict:
        return {"tags": [{"tag": "a", "score": score} for score in scores]}

    assert doubt(tagged(0.5)) == 1 and doubt(tagged(1.0, 0.0)) == 0
    assert doubt(tagged(0.9, 0.4)) == pytest.approx(0.8)
    assert 0 < doubt({"caption": "a dog", "score": -0.1}) < doubt({"caption": "dog", "score": -2})
    assert doubt({"error": "damaged"}) == 0


def browse(folder: Path, query: str = "", script: str = "", milliseconds: int = 3000) -> str:
    """The page as the browser has it after its program, and `script`, ran."""
    page = folder / "index.html"
    if script:
        text = page.read_text("utf-8")
        page = folder / "test.html"
        page.write_text(text.replace("</body>", f"<script>{script}</script></body>"), "utf-8")
    return dump_dom(page, folder.parent, milliseconds, query)


@needs_browser
def test_gallery_in_a_browser(lines, tmp_path):
    folder = tmp_path / "gallery"
    write(writers.GalleryWriter(folder, num_threads=2), lines)
    unfiltered = browse(folder)
    assert "5 of 5 pictures<" in unfiltered and unfiltered.count("<figure") == 5
    # A hostile tag and name are text; nothing of them became an element.
    assert "<title>Pictures</title>" in unfiltered and "<img src=x" not in unfiltered
    assert "&lt;img src=x" in unfiltered
    assert unfiltered.count("tag doubtful") == 4 and "grass 40% ?" in unfiltered
    for query, count in {
        "#dog": 2,
        "#dog%20cat": 1,
        "#%22dog%22": 2,
        "#%22do%22": 0,
        "#line": 1,
        "#empty": 1,
    }.items():
        assert f"{count} of 5 pictures<" in browse(folder, query), query


CORRECT = """
addEventListener("load", () => setTimeout(() => {
  const card = name => [...document.querySelectorAll("figure")].find(
    f => f.querySelector(".file").textContent.endsWith(name));
  const press = (name, text) => [...card(name).querySelectorAll("button")].find(
    b => b.textContent.startsWith(text)).click();
  const drop = (name, tag) => [...card(name).querySelectorAll(".tag")].find(
    t => t.textContent.startsWith(tag)).querySelector(".drop").click();
  const add = (name, tag) => {
    const input = card(name).querySelector("input");
    input.value = tag;
    input.dispatchEvent(new Event("change"));
  };
  drop("dog.jpg", "grass");
  add("dog.jpg", "=wet, \\"brown\\"");
  add("dog.jpg", "sea;side");
  press("#1.png", "all right");
  drop('">.png', "a; b");
  drop('">.png', "a; b");   // and back
  press("tall.png", "all right");
  press("tall.png", "undo");
  add("tall.png", "red");
  document.title = JSON.stringify(table());
}, 500));
"""


@needs_browser
def test_corrections_are_a_table_that_prepare_reads(lines, tmp_path):
    folder = tmp_path / "gallery"
    write(writers.GalleryWriter(folder, num_threads=2), lines)
    page = browse(folder, script=CORRECT)
    match = re.search(r"<title>(.*?)</title>", page)
    assert match is not None
    text = json.loads(html.unescape(match[1]))
    album = tmp_path / "album"
    (album / "tags.csv").write_bytes(text.encode("utf-8"))
    rows = list(csv.reader(text.removeprefix("\ufeff").splitlines()))
    assert rows[0] == ["file", "tags"] and len(rows) == 4
    with SourceFiles(album, lambda name: name != "tags.csv") as source:
        table = annotation_tables.read_table(source, "tags.csv")
    assert not table.problems and not table.warnings
    assert [(Path(row.file).name, row.texts) for row in table.rows] == [
        ("dog.jpg", ["dog", '=wet, "brown"', "sea side"]),
        ("déjà:vu #1.png", ["cat", "dog"]),
        ("tall.png", ["red"]),
    ]
    assert page.count('class="corrected"') == 3 and "3 corrected" in page
    assert page.count('<figure class="corrected"') == 3


@needs_browser
def test_groups_in_a_browser(lines, tmp_path):
    folder = tmp_path / "gallery"
    finder = writers.DuplicatesWriter(tmp_path / "groups.json", num_threads=1)
    one, other = (duplicates.fingerprint(lines[n]["file"]) for n in (2, 0))
    finder.groups = [[duplicates.Member(one, ""), duplicates.Member(other, "similar")]]
    write(writers.GalleryWriter(folder, num_threads=2, duplicates=finder), lines)
    show = 'addEventListener("load", () => { view.value = "groups"; update(); });'
    page = browse(folder, script=show)
    assert "2 of 5 pictures" in page
    assert "group 1, largest of 2" in page and "group 1, similar" in page


@needs_browser
@pytest.mark.slow
def test_100000_images_open_and_scroll(tmp_path):
    """Opened in less than 3 s; each step of scrolling to another 200th takes less than 50 ms."""
    folder = tmp_path / "gallery"
    tags = ["dog", "cat", "sea", "tree", "person", "dining table"]
    rows = [
        {
            "file": f"/photos/{n // 1000:03}/IMG_{n:06}.jpg",
            "tags": [
                {"tag": tags[(n + k) % 6], "score": round((n * k % 97) / 97, 4)} for k in (0, 1, 3)
            ],
        }
        for n in range(100_000)
    ]
    write(writers.GalleryWriter(folder, num_threads=2), rows)
    script = """
    const opened = {};
    const timing = setInterval(() => {
      if (!opened.first && document.querySelector("figure")) opened.first = performance.now();
      if (all.length < 100000 || opened.all) return;
      opened.all = performance.now();
      clearInterval(timing);
      const times = [];
      for (let step = 0; step <= 200; step++) {
        const started = performance.now();
        scrollTo(0, (document.body.scrollHeight - innerHeight) * step / 200);
        draw();
        document.body.getBoundingClientRect();
        times.push(performance.now() - started);
      }
      opened.last = [...document.querySelectorAll(".file")].pop().textContent;
      opened.cards = document.querySelectorAll("figure").length;
      times.sort((a, b) => a - b);
      opened.step = times[100];
      opened.slowest = times[200];
      const started = performance.now();
      search.value = "img_09999";
      update();
      opened.search = performance.now() - started;
      opened.found = shown.length;
      document.title = JSON.stringify(opened);
    }, 10);
    """
    started = time.monotonic()
    page = browse(folder, script=script, milliseconds=60_000)
    match = re.search(r"<title>(\{.*?\})</title>", page)
    assert match is not None
    result = json.loads(html.unescape(match[1]))
    print(result, f"{time.monotonic() - started:.1f} s with the browser's start and end")
    assert result["last"].endswith("IMG_099999.jpg") and result["found"] == 10
    assert result["cards"] < 150
    assert result["first"] < 3000 and result["step"] < 50 and result["search"] < 1000


def test_a_gallery_that_failed_at_its_start_is_begun_again(lines, tmp_path):
    folder = tmp_path / "gallery"
    folder.mkdir()
    (folder / ".pictures.js.lock").touch()  # all that a full disk let it write
    write(writers.GalleryWriter(folder, num_threads=1), lines)
    assert len(data_of(folder)) == len(lines)
