"""The command: a line for each picture, whatever it is and is called, and clear refusals."""

import contextlib
import glob
import json
import os
import shutil
import stat
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from calling import call, start
from PIL import Image

from jaxtag.annotation import annotator
from jaxtag.storage import atomic_file
from jaxtag.storage.atomic_file import AtomicFile

RED, GREEN, BLUE = (220, 30, 30), (30, 200, 40), (40, 60, 220)
# Names that somebody's pictures have; the last is Latin-1 and no UTF-8.
ODD_NAMES = [
    "two  spaces.png",
    "déjà vu 写真.png",
    "🐶🎈.png",
    'it\'s "quoted".png',
    "new\nline.png",
    "-leading.png",
    "--config=shapes_caption",
    "--help",
    "[1].png",
    "*.png",
    "back\\slash.png",
    "half a \u2028 line.png",
    os.fsdecode(b"caf\xe9.png"),
]


def header_of_png(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds next to nothing."""
    content = b"\x89PNG\r\n\x1a\n"
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    for name, payload in ((b"IHDR", header), (b"IDAT", zlib.compress(bytes(999))), (b"IEND", b"")):
        check = struct.pack(">I", zlib.crc32(name + payload))
        content += struct.pack(">I", len(payload)) + name + payload + check
    return content


def scene(colour: tuple[int, int, int]) -> Image.Image:
    """A picture like those that the model was trained on."""
    picture = Image.new("RGB", (50, 48), colour)
    picture.paste((250, 250, 250), (0, 0, 12, 20))
    return picture


@pytest.fixture(scope="module")
def odd(tmp_path_factory) -> Path:
    """Sound pictures with odd names."""
    folder = tmp_path_factory.mktemp("odd")
    for number, name in enumerate(ODD_NAMES):
        scene((RED, GREEN, BLUE)[number % 3]).save(folder / name, "PNG")
    return folder


@pytest.fixture(scope="module")
def kinds(tmp_path_factory) -> Path:
    """Sound pictures of every kind."""
    folder = tmp_path_factory.mktemp("kinds")
    blue, grey = scene(BLUE), scene(GREEN).convert("L")
    blue.save(folder / "blue.png")
    blue.save(folder / "jpeg.jpg", quality=95)
    blue.convert("CMYK").save(folder / "cmyk.jpg", quality=95)
    blue.convert("P", palette=Image.Palette.ADAPTIVE).save(folder / "palette.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # shown a quarter turn clockwise
    blue.transpose(Image.Transpose.ROTATE_90).save(folder / "rotated.png", exif=exif)
    grey.save(folder / "grey.png")
    grey.convert("RGB").save(folder / "grey_as_rgb.png")
    Image.fromarray(np.asarray(grey).astype(np.uint16) * 257).save(folder / "grey_16_bits.png")
    Image.new("RGB", (1, 1), RED).save(folder / "one_pixel.png")
    Image.new("L", (6000, 6000), 90).save(folder / "huge.png", compress_level=1)
    return folder


@pytest.fixture(scope="module")
def broken(tmp_path_factory) -> dict[Path, str]:
    """Files that are no sound picture, and what should be said of each."""
    folder = tmp_path_factory.mktemp("broken")
    intact = folder / "intact.jpg"
    Image.effect_noise((200, 200), 50).save(intact)
    content = {
        "cut.jpg": (intact.read_bytes()[:5000], "damaged JPEG"),
        "empty.jpg": (b"", "the file is empty"),
        "text.jpg": (b"not a picture at all\n", "no image format is known"),
        "bomb.png": (header_of_png(50_000, 50_000), "pixels"),
        "large.png": (header_of_png(10_000, 10_000), "10000x10000 is more than"),
        "short.png": (header_of_png(100, 100), "damaged image"),
    }
    for name, (data, _) in content.items():
        (folder / name).write_bytes(data)
    (folder / "dangling.png").symlink_to(folder / "nowhere.png")
    (folder / "loop.png").symlink_to("loop.png")
    os.mkfifo(folder / "pipe.jpg")
    reasons = {folder / name: reason for name, (_, reason) in content.items()}
    reasons[folder / "dangling.png"] = reasons[folder / "missing.jpg"] = "No such file"
    reasons[folder / "loop.png"] = "Too many levels of symbolic links"
    reasons[folder / "pipe.jpg"] = "not a regular file"
    intact.unlink()
    return reasons


@pytest.fixture
def annotate(tiny_run, tmp_path):
    """Calls the command; gives its lines."""

    def run(*arguments: object) -> list[dict]:
        output = tmp_path / "out.jsonl"
        done = call("annotate", f"--workdir={tiny_run}", f"--output={output}", *arguments)
        assert done.status == 0, done.err
        lines = read(output)
        bad = sum("error" in line for line in lines)
        summary = f"{len(lines) - bad} pictures annotated, {bad} could not be read: {output}\n"
        assert done.out == summary
        return lines

    return run


def read(output: Path) -> list[dict]:
    """The lines of a finished output, each checked for its form."""
    assert [path.name for path in output.parent.glob("*.partial")] == []
    *texts, end = output.read_text("utf-8").split("\n")
    assert end == ""
    lines = [json.loads(text) for text in texts]
    for line in lines:
        assert list(line)[:3] == ["file", "caption", "score"] or list(line) == ["file", "error"]
        if "error" in line:
            assert line["error"] and "\n" not in line["error"]
        else:
            assert line["caption"] and line["score"] < 0
    return lines


def by_name(lines: list[dict]) -> dict[str, tuple[str, float]]:
    """Caption and score of the pictures that have one."""
    return {Path(x["file"]).name: (x["caption"], x["score"]) for x in lines if "error" not in x}


def test_every_kind_of_picture_gets_a_caption(annotate, kinds):
    lines = annotate(kinds)
    assert [line["file"] for line in lines] == sorted(map(str, kinds.iterdir()))
    captions = by_name(lines)
    # What holds the same pixels has the same caption.
    for name in ("palette.png", "rotated.png"):
        assert captions[name] == captions["blue.png"]
    for name in ("grey.png", "grey_16_bits.png"):
        assert captions[name] == captions["grey_as_rgb.png"]
    for name in ("jpeg.jpg", "cmyk.jpg"):
        assert captions[name][0] == captions["blue.png"][0]
        assert captions[name][1] == pytest.approx(captions["blue.png"][1], abs=0.05)


def test_what_the_model_sees_is_what_it_says(annotate, tmp_path):
    for name, colour in {"red": RED, "blue": BLUE}.items():
        scene(colour).save(tmp_path / f"{name}.png")
        (line,) = annotate(tmp_path / f"{name}.png")
        assert name in line["caption"]


def test_broken_pictures_are_told_and_the_run_goes_on(annotate, broken, kinds):
    good = [kinds / "blue.png", kinds / "jpeg.jpg"]
    lines = annotate(good[0], *broken, good[1])
    assert [line["file"] for line in lines] == list(map(str, [good[0], *broken, good[1]]))
    assert [("error" in line) for line in lines] == [False, *([True] * len(broken)), False]
    for line, reason in zip(lines[1:-1], broken.values(), strict=True):
        assert reason in line["error"], line


def test_nothing_but_broken_pictures(annotate, broken):
    assert all("error" in line for line in annotate(*broken))


def test_odd_names_come_back_as_they_are(annotate, odd):
    lines = annotate(odd)
    assert [line["file"] for line in lines] == [str(odd / name) for name in sorted(ODD_NAMES)]
    assert all(os.path.exists(line["file"]) and "caption" in line for line in lines)
    assert [line["file"] for line in annotate(*(odd / name for name in ODD_NAMES))] == [
        str(odd / name) for name in ODD_NAMES
    ]


def test_lines_come_in_the_order_of_the_paths(annotate, tmp_path):
    for name in ("b.png", "a.png", "deep/er/d.png", "deep/c.png", "[1].png", "1.png", ".hid.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        scene(GREEN).save(tmp_path / name)
    album = tmp_path

    def names(*paths: str) -> list[str]:
        lines = annotate(*(album / path for path in paths))
        return [str(Path(line["file"]).relative_to(album)) for line in lines]

    assert names("b.png", "a.png", "b.png") == ["b.png", "a.png"]
    assert names("deep", "[1].png", "?.png", ".hid.png") == [
        *("deep/c.png", "deep/er/d.png"),
        "[1].png",
        *("1.png", "a.png", "b.png"),
        ".hid.png",
    ]
    everything = ["1.png", "[1].png", "a.png", "b.png", "deep/c.png", "deep/er/d.png"]
    assert names("[2ab].png", "none.png") == ["a.png", "b.png", "none.png"]
    assert names("**/*.png") == everything
    assert (tmp_path / "out.jsonl").exists()  # of the calls before, and no picture
    assert names(".") == everything


def test_a_caption_depends_on_its_picture_alone(annotate, kinds, odd, broken):
    """Neither on the size of the batches nor on what else is in them."""
    together = by_name(annotate(kinds, *broken, odd, "--config.evaluation.batch_size=64"))
    assert len({caption for caption, _ in together.values()}) > 2
    others = [annotate(odd, kinds, "--config.evaluation.batch_size=8")]
    others += [annotate(kinds / name) for name in ("blue.png", "one_pixel.png", "grey.png")]
    for lines in others:
        for name, (caption, score) in by_name(lines).items():
            assert caption == together[name][0]
            assert score == pytest.approx(together[name][1], abs=2e-4)


def test_decoding_can_be_changed(annotate, kinds):
    greedy, beam = (
        annotate(kinds / "blue.png", f"--config.task.decoding.method={method}")[0]
        for method in ("greedy", "beam")
    )
    assert greedy["score"] != beam["score"]


def test_several_captions_and_the_scores_of_words(annotate, kinds):
    options = ["--captions_per_image=2", "--word_scores", "--config.task.decoding.length_penalty=0"]
    (line,) = annotate(kinds / "blue.png", *options)
    first, second = line["captions"]
    assert {name: line[name] for name in first} == first
    assert first["caption"] != second["caption"] and first["score"] >= second["score"]
    for caption in (first, second):
        assert " ".join(word["word"] for word in caption["words"]) == caption["caption"]
        assert all(0 < word["score"] <= 1 for word in caption["words"])


def test_a_table_sidecars_and_a_gallery_besides(annotate, tmp_path):
    album = tmp_path / "album"
    album.mkdir()
    for name, colour in {"red": RED, "blue": BLUE}.items():
        scene(colour).save(album / f"{name}.png")
    besides = [f"--csv={album}/table.csv", "--sidecars", f"--gallery={album}/gallery"]
    for _ in range(2):  # what the first run wrote among the pictures is no picture of the second
        lines = annotate(album, *besides)
        assert [Path(line["file"]).name for line in lines] == ["blue.png", "red.png"]
    for line in lines:
        assert line["caption"] in Path(f"{line['file']}.xmp").read_text("utf-8")
        assert line["caption"] in (album / "table.csv").read_text("utf-8")
        assert line["caption"] in (album / "gallery" / "data" / "0000.js").read_text("utf-8")
    assert len(list((album / "gallery").glob("thumbnails/*/*.jpg"))) == 2


def test_as_a_process_in_the_folder_of_the_pictures(tiny_run, odd, broken, tmp_path):
    output = tmp_path / os.fsdecode(b"caf\xe9.jsonl")
    bomb = next(path for path in broken if path.name == "large.png")
    flags = [f"--workdir={tiny_run}", f"--output={output}"]
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(__file__).parents[1]),
        "PYTHONIOENCODING": "utf-8:strict",  # as in most languages' UTF-8 locales, but not in C's
    }
    done = start("annotate", *flags, "--", *ODD_NAMES, bomb, "absent.png", cwd=odd, env=environment)
    assert done.status == 0, done.err
    assert done.err == ""
    summary = (
        f"{len(ODD_NAMES)} pictures annotated, 2 could not be read: {tmp_path}/caf\\udce9.jsonl"
    )
    assert done.out == f"{summary}\n"
    lines = read(output)
    assert [line["file"] for line in lines] == [*ODD_NAMES, str(bomb), "absent.png"]
    assert lines[-1]["error"] == "No such file or directory"


@pytest.mark.parametrize(
    ("output", "reason"),
    [
        ("absent/out.jsonl", "No such file or directory"),
        ("folder", "Is a directory"),
        (".", "Is a directory"),
        ("file/out.jsonl", "Not a directory"),
        ("x" * 300, "File name too long"),
    ],
)
def test_an_output_that_cannot_be_written_is_told_first(
    tiny_run, kinds, tmp_path, monkeypatch, output, reason
):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    monkeypatch.chdir(tmp_path)
    done = call("annotate", f"--workdir={tiny_run}", f"--output={output}", kinds / "blue.png")
    assert (done.status, done.out) == (1, "")
    assert done.err == f"error: --output={output} cannot be written: {reason}\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a disk that is always full")
def test_a_full_disk_is_told_and_leaves_the_old_output(tiny_run, kinds, tmp_path, monkeypatch):
    output = tmp_path / "out.jsonl"
    output.write_text("old\n")
    full = (os.open("/dev/full", os.O_WRONLY), tmp_path / "out.jsonl.partial")
    create = atomic_file._create_partial
    monkeypatch.setattr(
        atomic_file, "_create_partial", lambda path: full if path == output else create(path)
    )
    done = call("annotate", f"--workdir={tiny_run}", f"--output={output}", kinds / "blue.png")
    assert done.status == 1
    assert done.err == f"error: --output={output} cannot be written: No space left on device\n"
    assert output.read_text() == "old\n"
    assert [path.name for path in tmp_path.iterdir()] == ["out.jsonl"]  # the lock is gone too


def test_a_device_is_written_to_and_stays_one(tiny_run, kinds):
    flags = [f"--workdir={tiny_run}", kinds / "blue.png"]
    done = call("annotate", "--output=/dev/null", *flags)
    assert (done.status, done.out) == (0, "")
    assert "1 pictures annotated, 0 could not be read: /dev/null" in done.err
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
    assert not glob.glob("/dev/null*.partial")


def test_an_output_has_one_writer(tiny_run, kinds, tmp_path):
    output = tmp_path / "out.jsonl"
    with contextlib.closing(AtomicFile(output)):
        done = call("annotate", f"--workdir={tiny_run}", f"--output={output}", kinds / "blue.png")
    assert (done.status, done.out) == (1, "")
    assert f"--output={output} is in use by process {os.getpid()} on " in done.err
    assert not output.exists()


def test_what_is_no_picture_is_left_out_and_counted(tiny_run, kinds, tmp_path):
    album, pool = tmp_path / "album", tmp_path / "pool"
    pool.mkdir()
    for name in ("a.png", "@eaDir/a.png/SYNOPHOTO_THUMB_XL.jpg"):
        (album / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(kinds / "blue.png", album / name)
    shutil.copy(kinds / "grey.png", pool / "b.png")
    (album / "2023").symlink_to(pool)
    for name in ("Thumbs.db", "desktop.ini", "a.png.json", "a.png.xmp", "IMG.MOV"):
        (album / name).touch()
    output = tmp_path / "out.jsonl"
    done = call("annotate", f"--workdir={tiny_run}", f"--output={output}", album)
    assert done.status == 0, done.err
    names = [os.path.relpath(line["file"], album) for line in read(output)]
    assert names == ["a.png", "2023/b.png"]
    assert done.err.startswith("left out: 3 file(s) that are no pictures (1 .mov, 1 .json, 1 ")


def test_a_sidecar_that_cannot_be_written_is_no_success(tiny_run, kinds, tmp_path):
    picture = tmp_path / "a.png"
    shutil.copy(kinds / "blue.png", picture)
    (tmp_path / "absent").write_text("a file, no folder")
    (tmp_path / "a.png.xmp").symlink_to(tmp_path / "absent" / "a.xmp")
    output = tmp_path / "out.jsonl"
    flags = [f"--workdir={tiny_run}", f"--output={output}"]
    done = call("annotate", *flags, "--sidecars", picture)
    assert done.status == 1
    assert read(output)[0]["file"] == str(picture)


def test_several_runs_in_one_call(tiny_run, kinds, tmp_path):
    picture, output = kinds / "blue.png", tmp_path / "out.jsonl"
    once = [f"--workdir={tiny_run}", f"--output={output}", picture]
    assert call("annotate", *once).status == 0
    alone = read(output)
    assert call("annotate", f"--workdir={tiny_run}", *once).status == 0
    assert read(output) == alone
    done = call("annotate", f"--workdir={tiny_run}", *once, "--config.evaluation.batch_size=2")
    assert (done.status, done.out) == (2, "") and "--config changes one run" in done.err
    tagged = [
        {"file": "a", "tags": [{"tag": "dog", "score": 0.5}, {"tag": "sea", "score": 0.4}]},
        {"file": "a", "caption": "a dog", "score": -1.0},
        {"file": "a", "tags": [{"tag": "sea", "score": 0.9}]},
    ]
    assert annotator.merge(tuple(tagged)) == {
        "file": "a",
        "tags": [{"tag": "sea", "score": 0.9}, {"tag": "dog", "score": 0.5}],
        "caption": "a dog",
        "score": -1.0,
    }
    broken = {"file": "a", "error": "damaged"}
    assert annotator.merge((tagged[0], broken)) == broken


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--output={tmp}/o", "{tmp}"], 2, "usage: jaxtag.annotate --model=REF"),
        (["--workdir={run}", "{tmp}"], 2, "usage: jaxtag.annotate"),
        (["--workdir={run}", "--output={tmp}/o"], 2, "usage: jaxtag.annotate"),
        (["--workdir={run}", "--output={tmp}/o", "{tmp}"], 1, "no files in {tmp}"),
        (["--workdir={run}", "--output={tmp}/o", "{tmp}/*.png"], 1, "no files in {tmp}/*.png"),
        (["--workdir={tmp}/no", "--output={tmp}/o", "a.png"], 1, "{tmp}/no is no work directory"),
        (["--workdir={run}", "--output={tmp}/o", "--ouput=x", "a"], 2, "Did you mean: output"),
        (["--workdir={run}", "--output={tmp}/o", "--step=7", "a.png"], 1, "has no step 7"),
        (["--workdir={run}", "--output={tmp}/o", "--step=last", "a.png"], 2, "--step=last"),
        (
            ["--workdir={run}", "--output={tmp}/o", "--config.task.decoding.top_p=2", "a.png"],
            2,
            "config.task.decoding: top_p must lie in (0, 1]",
        ),
        (["--workdir={run}", "--output={tmp}/o", "-x.png"], 2, "Unknown command line flag 'x.png'"),
    ],
)
def test_wrong_use_is_one_line(tiny_run, tmp_path, arguments, status, message):
    fill = {"run": tiny_run, "tmp": tmp_path}
    done = call("annotate", *(argument.format(**fill) for argument in arguments))
    assert (done.status, done.out) == (status, "")
    assert done.err.startswith("error: ") and done.err.count("\n") == 1
    assert message.format(**fill) in done.err
    assert list(tmp_path.iterdir()) == []
