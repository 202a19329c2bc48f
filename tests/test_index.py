"""The tag index as a user has it: built, grown, searched, shrunk; from Python too."""

import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from calling import call
from PIL import Image

from jaxtag.distributed import mesh as meshes
from jaxtag.errors import UserError
from jaxtag.tag_index import DEFAULT_KNN, TWO_PASS, KnnConfig, TagIndex, predict
from jaxtag.tag_index import vectors as rows

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (40, 60, 220)}


def picture(colour: tuple[int, int, int], seed: int) -> Image.Image:
    pixels = np.random.RandomState(seed).normal(colour, 20, (20, 24, 3))
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """Pictures `red0.png` … `blue5.png`, of which the first four of each are in tags.csv."""
    folder = tmp_path_factory.mktemp("photos")
    lines = ["file,tags"]
    for name, colour in COLOURS.items():
        for seed in range(6):
            picture(colour, seed).save(folder / f"{name}{seed}.png")
            if seed < 4:
                lines.append(f"{name}{seed}.png,{name};{'warm' if name == 'red' else 'cold'}")
    (folder / "tags.csv").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture
def index(photos, tmp_path) -> Path:
    folder = tmp_path / "index"
    tags = photos / "tags.csv"
    done = call("index", "build", f"--index={folder}", "--pixels=4", f"--tags={tags}")
    assert done.status == 0, done.err
    assert done.out == f"12 images in the index, 0 could not be read: {folder}\n"
    return folder


def search(index: Path, *paths: Path, count: int = 3) -> list[dict]:
    done = call("index", "search", f"--index={index}", f"--top_k={count}", *paths)
    assert done.status == 0, done.err
    return [json.loads(line) for line in done.out.splitlines()]


def info(index: Path) -> dict:
    done = call("index", "info", f"--index={index}")
    assert done.status == 0, done.err
    return done.last


def test_an_interrupted_build_goes_on_with_the_same_command(photos, tmp_path, monkeypatch) -> None:
    build = ["index", "build", f"--index={tmp_path}/index", f"--tags={photos}/tags.csv"]

    def fails(*_):
        raise UserError("the disk is full")

    monkeypatch.setattr(TagIndex, "add", fails)
    assert call(*build, "--pixels=4").status == 1
    monkeypatch.undo()
    other = call(*build, "--pixels=2")
    assert other.status == 1 and "unfinished index of other vectors" in other.err
    again = call(*build, "--pixels=4")
    assert again.out.startswith("12 images in the index"), again.err
    assert "holds an index already" in call(*build, "--pixels=4").err


def test_an_index_is_evaluated_on_a_prepared_split(index, photos, tmp_path) -> None:
    data = [f"--data_dir={tmp_path}/data", "--dataset=colours"]
    assert call("prepare", *data, f"--source={photos}/tags.csv").status == 0
    done = call("index", "evaluate", f"--index={index}", *data, "--split=train")
    assert done.last["map"] > 0.9, done.err
    wrong = call("index", "evaluate", f"--index={index}")
    assert wrong.status == 2 and "--dataset=NAME" in wrong.err


def test_pictures_are_tagged_by_their_neighbours(index, photos) -> None:
    (photos / "broken.jpg").write_bytes(b"no picture")
    lines = search(index, photos / "red5.png", photos / "blue5.png", photos / "broken.jpg")
    (photos / "broken.jpg").unlink()
    assert [Path(line["file"]).name for line in lines] == ["red5.png", "blue5.png", "broken.jpg"]
    assert [tag["tag"] for tag in lines[0]["tags"][:2]] == ["red", "warm"]
    assert lines[0]["tags"][0]["score"] > 0.9
    assert [tag["tag"] for tag in lines[1]["tags"][:2]] == ["cold", "blue"]
    assert all(Path(near["file"]).name.startswith("red") for near in lines[0]["nearest"])
    assert "no image format" in lines[2]["error"]
    summary = info(index)
    assert summary["pictures"] == 12 and summary["tags"] == {
        "red": 4,
        "warm": 4,
        "green": 4,
        "cold": 8,
        "blue": 4,
    }
    assert summary["features"] == {"pixels": 4} and summary["dimension"] == 48


def test_it_grows_and_shrinks(index, photos, tmp_path) -> None:
    new = photos / "green4.png"
    done = call("index", "add", f"--index={index}", "--tag=leaf,moss", new)
    assert done.status == 0, done.err
    copy = shutil.copy(new, tmp_path)  # an image of the index is not its own neighbor
    assert search(index, copy)[0]["nearest"][0]["file"] == str(new)
    # A tag that nobody has heard of: for a picture that is there, and for one that is not.
    other = photos / "green5.png"
    assert call("index", "tag", f"--index={index}", "--tag=fern", new, other).status == 0
    summary = info(index)
    assert (
        summary["pictures"] == 14 and summary["tags"]["fern"] == 2 and summary["tags"]["moss"] == 1
    )
    assert call("index", "untag", f"--index={index}", "--tag=moss").status == 0
    assert call("index", "untag", f"--index={index}", "--tag=fern", new).status == 0
    assert call("index", "remove", f"--index={index}", other).status == 0
    summary = info(index)
    assert (
        summary["pictures"] == 13 and summary["tags"]["fern"] == 0 and "moss" not in summary["tags"]
    )
    assert str(other) not in [near["file"] for near in search(index, other, count=13)[0]["nearest"]]
    done = call("index", "compact", f"--index={index}")
    assert done.out == "1 removed images erased\n"
    assert info(index) == summary


def test_pictures_that_are_there_are_not_added_twice(index, photos) -> None:
    done = call("index", "add", f"--index={index}", f"--tags={photos / 'tags.csv'}")
    assert done.out.startswith("12 images in the index")


def test_features_of_a_run(tiny_run, tiny_data, photos, tmp_path) -> None:
    """The encoder of a captioner."""
    index = tmp_path / "index"
    done = call(
        "index",
        "build",
        f"--index={index}",
        f"--workdir={tiny_run}",
        photos / "red0.png",
        "--",
        photos / "blue0.png",
    )
    assert done.status == 0, done.err
    done = call("index", "add", f"--index={index}", "--tag=blue", photos / "blue1.png")
    assert done.status == 0, done.err
    summary = info(index)
    assert summary["pictures"] == 3 and summary["dimension"] == 32
    assert summary["features"]["workdir"] == str(tiny_run.resolve())
    near = search(index, shutil.copy(photos / "blue0.png", tmp_path))[0]["nearest"]
    assert near[0]["file"] == str(photos / "blue0.png") and near[0]["score"] > 0.999
    # Once it was told where the run is now, it knows.
    manifest = index / "manifest.json"
    manifest.write_text(manifest.read_text().replace(str(tiny_run.resolve()), "/moved/away"))
    refused = call("index", "search", f"--index={index}", photos / "blue0.png")
    assert refused.status == 1 and "/moved/away" in refused.err
    told = call("index", "search", f"--index={index}", f"--workdir={tiny_run}", photos / "red0.png")
    assert told.status == 0 and "from now on" in told.err
    assert info(index)["features"] == summary["features"]
    again = search(index, tmp_path / "blue0.png")[0]["nearest"]
    assert again == near


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["build"], "give one of --workdir, --model and --pixels"),
        (["build", "--pixels=4"], "give images in one way"),
        (["build", "--model=resnet17", "x.png"], "did you mean"),
        (["search", "x.png"], "holds no index"),
        (["destroy"], "usage: jaxtag.index"),
        (["tag", "x.png"], "--tag=NAME"),
    ],
)
def test_wrong_use_is_one_line(tmp_path, arguments, message) -> None:
    done = call("index", *arguments[:1], f"--index={tmp_path / 'none'}", *arguments[1:])
    assert done.status in (1, 2) and message in done.err
    assert "Traceback" not in done.err and not (tmp_path / "none").exists()


def test_a_tag_removed_from_a_picture_that_is_not_there(index, photos) -> None:
    done = call("index", "untag", f"--index={index}", "--tag=red", photos / "blue5.png")
    assert done.status == 1 and "is not in the index" in done.err


def test_from_python_without_compiling_anew(tmp_path) -> None:
    mesh = meshes.make_mesh(devices=jax.devices()[:1])
    index = TagIndex.create(tmp_path, dimension=8, features={"own": True}, mesh=mesh)
    vectors = np.random.RandomState(0).randn(60, 8).astype(np.float32)
    programs, compiled = (rows._search, rows._write, rows._grow), []
    index.add(["a", "b"], vectors[:2], [["sea"], ["sky"]])
    for number in range(2, 60):
        index.add(
            [f"{number}", f"{number}b"], vectors[[number, number - 1]], [[f"tag {number}"], []]
        )
        index.remove([f"{number}b"])
        index.tag(f"later {number}", [f"{number}"])
        best = dict(index.tags(vectors[number : number + 1], 2)[0])
        assert best.keys() == {f"tag {number}", f"later {number}"}
        compiled.append([program._cache_size() for program in programs])
    assert compiled[1:] == compiled[1:2] * 57
    again = TagIndex(tmp_path, mesh)
    np.testing.assert_array_equal(again.scores(vectors), index.scores(vectors))
    assert again.scores(vectors, KnnConfig(1, two_pass=True)).shape == (60, len(index.tag_names))
    assert len(again) == 60
    files, vote = [f"{number}" for number in range(60)], dict(knn=TWO_PASS, mesh=mesh)
    other = TagIndex.create(tmp_path / "two", dimension=8, features={}, **vote)
    other.add(files, vectors, [[f"tag {number % 7}"] for number in range(60)])
    two = TagIndex(tmp_path / "two", mesh)
    np.testing.assert_array_equal(two.scores(vectors), other.scores(vectors, TWO_PASS))
    assert (two.scores(vectors) != two.scores(vectors, DEFAULT_KNN)).any()


def test_annotate_by_an_index_alone(index, photos, tmp_path) -> None:
    (tmp_path / "broken.png").write_bytes(b"no picture")
    paths = photos / "red5.png", tmp_path / "broken.png", photos / "blue5.png"
    output = tmp_path / "out.jsonl"
    done = call("annotate", f"--index={index}", f"--output={output}", *paths)
    assert done.status == 0, done.err
    lines = [json.loads(line) for line in output.read_text().splitlines()]
    assert [line["file"] for line in lines] == [str(path) for path in paths]
    assert [tag["tag"] for tag in lines[0]["tags"][:2]] == ["red", "warm"]
    assert "error" in lines[1] and lines[2]["tags"][0]["tag"] == "cold"


def test_annotate_by_a_model_and_an_index(index, photos, tiny_run, tmp_path) -> None:
    output = tmp_path / "out.jsonl"
    flags = f"--index={index}", f"--workdir={tiny_run}", f"--output={output}"
    done = call("annotate", *flags, photos / "red5.png")
    assert done.status == 0, done.err
    line = json.loads(output.read_text())
    assert line["caption"] and [tag["tag"] for tag in line["tags"][:2]] == ["red", "warm"]


def test_tags_of_a_model_and_an_index_together() -> None:
    model_rows = [
        {"file": "a", "tags": [{"tag": "dog", "score": 0.9}, {"tag": "cat", "score": 0.4}]},
        {"file": "b", "error": "damaged"},
    ]
    index_rows = [
        {"file": "a", "tags": [{"tag": "dog", "score": 0.5}, {"tag": "surfer", "score": 0.6}]},
        {"file": "b", "error": "damaged"},
    ]
    lines = list(predict.merge_predictions(iter(model_rows), iter(index_rows), ("dog", "cat"), 2))
    expected = [{"tag": "dog", "score": 0.7}, {"tag": "surfer", "score": 0.6}]
    assert lines == [{"file": "a", "tags": expected}, model_rows[1]]


def test_an_image_of_the_index_is_not_its_own_neighbor(index, photos):
    (line,) = search(index, photos / "red0.png", count=2)
    assert len(line["nearest"]) == 2
    assert str(photos / "red0.png") not in [near["file"] for near in line["nearest"]]


def test_what_annotate_wrote_goes_into_an_index(index, photos, tmp_path):
    """Corrected by hand or not; an image that could not be read is told."""
    for suffix in ("jsonl", "csv"):
        output, table = tmp_path / "out.jsonl", tmp_path / "out.csv"
        done = call(
            *("annotate", f"--index={index}", f"--output={output}", f"--csv={table}"),
            *("--top_k=1", photos / "red5.png", photos / "absent.png"),
        )
        assert done.status == 0, done.err
        new = tmp_path / f"new_{suffix}"
        source = {"jsonl": output, "csv": table}[suffix]
        flags = [f"--index={new}", "--pixels=4", f"--tags={source}"]
        done = call("index", "build", *flags)
        assert done.status == 0, done.err
        assert "absent.png" in done.err or "without annotations: No such file" in done.err
        assert info(new)["tags"] == {"red": 1}


def test_a_damaged_manifest_is_one_line(index, photos):
    manifest = json.loads((index / "manifest.json").read_text())
    description = manifest["vectors"]
    for change in (
        {"dimension": "48"},
        {"dimension": -1},
        {"metric": "no"},
        {"features": None},
        {"features": {"pixels": "x"}},
        {"features": {"pixels": []}},
        {"vote": {"neighbours": 0}},
        {"vote": []},
        {"vote": {"temperature": "hot"}},
    ):
        content = {**manifest, "vectors": {**description, **change}}
        (index / "manifest.json").write_text(json.dumps(content))
        done = call("index", "search", f"--index={index}", photos / "red0.png")
        assert (done.status, done.out) == (1, ""), change
        assert done.err.startswith("error: ") and done.err.count("\n") == 1, change


def test_names_do_not_reach_the_terminal_as_control_characters(index, tmp_path):
    bad = tmp_path / "a\x1b]0;title\x07\u202egpj.png"
    bad.touch()
    done = call("index", "add", f"--index={index}", "--tag=x", bad)
    assert "a\\x1b]0;title\\x07\\u202egpj.png: the file is empty" in done.err
    done = call("index", "remove", f"--index={index}", "\x1b[2J")
    assert done.status == 1 and "\\x1b[2J" in done.err and "\x1b" not in done.err
