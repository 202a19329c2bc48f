"""The command: folders that programs without jaxtag use."""

import json
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import jax
import numpy as np
import pytest
import stored_image_text
from calling import call
from exported_models import captioner, classifier, embedder, matcher, tagger
from PIL import Image
from stored_captioners import unpack

import jaxtag
from jaxtag.data.decode import open_image
from jaxtag.export import examples, folder
from jaxtag.inference import predictor
from jaxtag.inference.predictor import Predictor

# Python that finds no jaxtag, wherever it lies.
_WITHOUT_JAXTAG = """
import runpy, sys
sys.modules["jaxtag"] = None
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> list[Path]:
    """Images whose resizing changes nothing, so that Pillow's is jaxtag's."""
    folder = tmp_path_factory.mktemp("photos")
    colors = [(200, 40, 40), (30, 90, 220), (250, 250, 10)]
    for number, color in enumerate(colors):
        Image.new("RGB", (48, 48), color).save(folder / f"{number}.png")
    return sorted(folder.iterdir())


@pytest.fixture(scope="module")
def drawings(tmp_path_factory) -> list[Path]:
    """Images of other sizes and forms than a model takes, with an edge in each."""
    directory, random = tmp_path_factory.mktemp("drawings"), np.random.default_rng(4)
    for number, (height, width) in enumerate([(48, 71), (90, 41), (32, 32)]):
        pixels = np.zeros((height, width, 3), np.uint8) + random.integers(0, 256, 3, np.uint8)
        pixels[height // 3 :, : width // 2] = random.integers(0, 256, 3, np.uint8)
        Image.fromarray(pixels).save(directory / f"{number}.png")
    return sorted(directory.iterdir())


def export(model: Predictor, form: str, output: Path, *arguments: str):
    """The command, with a model that is loaded already."""
    with mock.patch.object(predictor, "load", lambda *_, **__: model):
        return call(
            "export", "--model=runs/x", f"--format={form}", f"--output={output}", *arguments
        )


def exported(model: Predictor, form: str, output: Path, *arguments: str) -> dict:
    """What jaxtag.json holds of a model that was exported."""
    done = export(model, form, output, *arguments)
    assert done.status == 0, done.err
    assert not list(output.parent.glob("*.partial"))
    return json.loads((output / "jaxtag.json").read_text("utf-8"))


def run_example(folder: Path, photos: list[Path]) -> list[str]:
    """The lines of example.py, less the files' names."""
    command = [sys.executable, "-c", _WITHOUT_JAXTAG, folder / "example.py", *photos]
    environment = {"PATH": "", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(command, capture_output=True, text=True, cwd="/", env=environment)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == len(photos)
    return [line.removeprefix(f"{photo} ") for line, photo in zip(lines, photos, strict=True)]


def tags(prediction) -> str:
    """A prediction's tags as example.py prints them."""
    return str({tag.tag: tag.score for tag in prediction.tags})


def assert_same_scores(line: str, expected: str) -> None:
    """Equal names in the same order, and scores to a digit of the last."""
    mine, others = (dict(eval(text, {"__builtins__": {}})) for text in (line, expected))
    assert list(mine) == list(others)
    np.testing.assert_allclose(list(mine.values()), list(others.values()), atol=1.5e-4)


class TestOnnx:
    @pytest.fixture(autouse=True)
    def packages(self):
        pytest.importorskip("onnx")
        pytest.importorskip("onnxruntime")

    def test_a_classifier(self, tmp_path: Path, photos: list[Path]) -> None:
        model = classifier()
        about = exported(model, "onnx", tmp_path / "x")
        assert about["labels"] == ["cat", "dog", "sea", "ship"] and "thresholds" not in about
        assert about["files"]["model.onnx"]["images"] == {
            "shape": ["batch", 16, 16, 3],
            "dtype": "uint8",
        }
        assert about["preprocessing"] == json.loads((tmp_path / "x/preprocessing.json").read_text())
        assert about["preprocessing"]["fit"] == "crop"
        assert about["preprocessing"]["crop"] == 0.875
        for line, prediction in zip(
            run_example(tmp_path / "x", photos), model([str(p) for p in photos]), strict=True
        ):
            assert_same_scores(line, tags(prediction))

    @pytest.mark.parametrize("head", ["linear", "query"])
    def test_a_tagger_gives_the_tags_that_reach_their_thresholds(
        self, head: str, tmp_path: Path, photos: list[Path]
    ) -> None:
        model = tagger(head)
        about = exported(model, "onnx", tmp_path / "x")
        assert about["thresholds"] == [0.4, 0.5, 0.6, 0.999]
        for line, prediction in zip(
            run_example(tmp_path / "x", photos), model([str(p) for p in photos]), strict=True
        ):
            assert_same_scores(line, tags(prediction))

    def test_a_captioner_gives_the_same_tokens(self, tmp_path: Path, photos: list[Path]) -> None:
        model = captioner()
        about = exported(model, "onnx", tmp_path / "x")
        assert set(about["files"]) == {"encoder.onnx", "decoder.onnx"}
        captions = [prediction.caption for prediction in model([str(p) for p in photos])]
        assert run_example(tmp_path / "x", photos) == captions
        assert len(set(captions)) > 1

    @pytest.mark.parametrize(
        "name, prompt",
        [
            ("blip", "two small"),
            ("git", ""),
            pytest.param("blip", "", marks=pytest.mark.slow),
            pytest.param("git", "two small", marks=pytest.mark.slow),
        ],
    )
    def test_a_published_captioner_gives_the_same_tokens(
        self, name: str, prompt: str, tmp_path: Path, drawings: list[Path]
    ) -> None:
        """BLIP and GIT, of images that are resized as transformers does it."""
        model = jaxtag.load(unpack(name, tmp_path / name))
        model.task.settings.decoding.prompt = prompt
        about = exported(model, "onnx", tmp_path / "x")
        assert len(about["prompt"]) == len(prompt.split())
        assert set(about["files"]) == {"encoder.onnx", "decoder.onnx"}
        with mock.patch.object(sys, "argv", ["example.py", *map(str, drawings)]):
            done = runpy.run_path(str(tmp_path / "x/example.py"))
        generated = model.task.make_predict()(
            model.variables, {"image": done["images"]}, jax.random.key(0)
        )["tokens"]
        tokens, eos_id = np.asarray(generated), about["eos_id"]
        assert len(np.unique(tokens, axis=0)) > 1
        for expected, row in zip(tokens, done["outputs"], strict=True):
            length = list(expected).index(eos_id) + 1 if eos_id in expected else len(expected)
            np.testing.assert_array_equal(row[:length], expected[:length])
        captions = [prediction.caption for prediction in model([str(p) for p in drawings])]
        # The tokenizers library leaves the mark of a piece that follows no word.
        captions = [caption.removeprefix("##") for caption in captions]
        assert run_example(tmp_path / "x", drawings) == captions

    def test_what_a_captioner_lacks_is_written_beside_it(self, tmp_path: Path) -> None:
        model = captioner()
        model.task.settings.decoding.min_new_tokens = 3
        exported(model, "onnx", tmp_path / "x")
        text = (tmp_path / "x/README.md").read_text("utf-8")
        assert "does not apply min_new_tokens=3, which" in text

    @pytest.mark.parametrize("registers", [0, 2])
    def test_images_of_any_size(self, registers: int, tmp_path: Path, photos: list[Path]) -> None:
        """Position embeddings are interpolated as by jaxtag; the rest of a patch is cut off."""
        import onnxruntime

        model = embedder(patch_size=4, registers=registers)
        model.variables["params"]["backbone"]["pos_embed"] *= 4
        about = exported(model, "onnx", tmp_path / "x", "--dynamic_size")
        spec = about["files"]["model.onnx"]["images"]
        assert spec["shape"] == ["batch", "height", "width", 3] and about["patch_size"] == 4
        assert "cut off" in (tmp_path / "x/README.md").read_text("utf-8")
        assert len(run_example(tmp_path / "x", photos)) == 3
        session = onnxruntime.InferenceSession(tmp_path / "x/model.onnx")
        vectors = {}
        for height, width in [(16, 16), (9, 79), (40, 17)]:
            images = np.random.default_rng(1).integers(0, 256, (3, height, width, 3), np.uint8)
            (vectors[height, width],) = session.run(None, {"images": images})
            expected = model.task.make_predict()(
                model.variables, {"image": images}, jax.random.key(0)
            )
            np.testing.assert_allclose(
                vectors[height, width], expected["embedding"], atol=1e-5, err_msg=f"{height, width}"
            )
            assert np.ptp(vectors[height, width], 0).max() > 0.01

    @pytest.mark.parametrize("make", [classifier, captioner], ids=["cnn", "captioner"])
    def test_models_of_one_size(self, make: Callable[[], Predictor], tmp_path: Path) -> None:
        done = export(make(), "onnx", tmp_path / "x", "--dynamic_size")
        assert done.status == 2 and "--dynamic_size is for" in done.err and "a ViT" in done.err
        assert not (tmp_path / "x").exists()

    def test_int8(self, tmp_path: Path, photos: list[Path]) -> None:
        exported(classifier(), "onnx", tmp_path / "x", "--quantize=int8")
        assert "8-bit" in (tmp_path / "x/README.md").read_text("utf-8")
        assert len(run_example(tmp_path / "x", photos)) == 3
        assert [p.name for p in (tmp_path / "x").glob("*.onnx")] == ["model.onnx"]

    @pytest.mark.parametrize(
        "make", [matcher, pytest.param(embedder, marks=pytest.mark.slow)], ids=["match", "embed"]
    )
    def test_the_layout_of_immich(self, make: Callable[[], Predictor], tmp_path: Path) -> None:
        import onnxruntime

        model = make()
        done = export(model, "immich", tmp_path / "x")
        assert done.status == 0, done.err
        settings = json.loads((tmp_path / "x/visual/preprocess_cfg.json").read_text())
        assert settings["size"] == [16, 16] and settings["resize_mode"] == "squash"
        assert json.loads((tmp_path / "x/config.json").read_text())["embed_dim"] == 6
        pixels = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), np.uint8)
        mean, std = (np.float32(settings[name]) for name in ("mean", "std"))
        images = ((np.float32(pixels) / 255 - mean) / std).transpose(0, 3, 1, 2)
        session = onnxruntime.InferenceSession(tmp_path / "x/visual/model.onnx")
        vectors = session.run(None, {"image": images})[0]
        np.testing.assert_allclose(vectors, model.features(pixels), atol=1e-4)
        assert (tmp_path / "x/textual").exists() == (make is matcher)
        if make is matcher:
            self.check_texts(model, tmp_path / "x")

    @pytest.mark.parametrize("kind", ["clip", pytest.param("siglip", marks=pytest.mark.slow)])
    def test_a_published_image_text_model(self, kind: str, tmp_path: Path) -> None:
        model = jaxtag.load(stored_image_text.unpack_whole(kind, tmp_path / kind))
        done = export(model, "immich", tmp_path / "immich")
        assert done.status == 0, done.err
        settings = json.loads((tmp_path / "immich/visual/preprocess_cfg.json").read_text())
        resize_mode = {"clip": "shortest", "siglip": "squash"}[kind]
        assert (settings["interpolation"], settings["resize_mode"]) == ("bicubic", resize_mode)
        self.check_texts(model, tmp_path / "immich")
        about = exported(model, "onnx", tmp_path / "onnx", "--dynamic_size")
        assert about["files"]["model.onnx"]["images"]["shape"][1:] == ["height", "width", 3]

    def check_texts(self, model: Predictor, folder: Path) -> None:
        """Tokenized as Immich does it, a text gets the vector that jaxtag gives it."""
        import onnxruntime
        import tokenizers

        texts, textual = ["a red dog", "two dogs by the sea and a cat", ""], folder / "textual"
        length = json.loads((folder / "config.json").read_text())["text_cfg"]["context_length"]
        pad_token = json.loads((textual / "tokenizer_config.json").read_text())["pad_token"]
        tokenizer = tokenizers.Tokenizer.from_file(str(textual / "tokenizer.json"))
        pad_id = tokenizer.token_to_id(pad_token)
        tokenizer.enable_padding(length=length, pad_token=pad_token, pad_id=pad_id)
        tokenizer.enable_truncation(max_length=length)
        tokens = np.array([tokenizer.encode(text).ids for text in texts], np.int32)
        session = onnxruntime.InferenceSession(textual / "model.onnx")
        vectors = session.run(None, {"text": tokens})[0]
        expected = model.task.embed_texts(model.variables, model.task.tokenize(texts))
        np.testing.assert_allclose(vectors, expected, atol=1e-4)
        assert np.ptp(vectors, 0).max() > 0.01

    def test_immich_takes_no_classifier(self, tmp_path: Path) -> None:
        done = export(classifier(), "immich", tmp_path / "x")
        assert done.status == 2 and "is for embedders" in done.err
        assert not (tmp_path / "x").exists()

    def test_a_file_that_computes_something_else_is_not_written(self, tmp_path: Path) -> None:
        from jaxtag.export import verify

        with mock.patch.object(
            verify, "onnx_outputs", lambda *_: {"probabilities": np.ones((2, 4))}
        ):
            done = export(classifier(), "onnx", tmp_path / "x")
        assert done.status == 1 and "computes something else than jaxtag" in done.err
        assert list(tmp_path.iterdir()) == []


class TestStableHlo:
    @pytest.fixture(autouse=True)
    def packages(self):
        pytest.importorskip("flatbuffers")

    def test_one_file_for_several_platforms(self, tmp_path: Path, photos: list[Path]) -> None:
        model = classifier()
        exported(model, "stablehlo", tmp_path / "x")
        program = jax.export.deserialize(bytearray((tmp_path / "x/model.stablehlo").read_bytes()))
        assert program.platforms == ("cpu", "cuda", "tpu")
        for line, prediction in zip(
            run_example(tmp_path / "x", photos), model([str(p) for p in photos]), strict=True
        ):
            assert_same_scores(line, tags(prediction))

    def test_images_of_any_size(self, tmp_path: Path) -> None:
        model = embedder(patch_size=4)
        exported(model, "stablehlo", tmp_path / "x", "--platforms=cpu", "--dynamic_size")
        program = jax.export.deserialize(bytearray((tmp_path / "x/model.stablehlo").read_bytes()))
        images = np.random.default_rng(1).integers(0, 256, (3, 9, 79, 3), np.uint8)
        vectors = program.call(images)["embedding"]
        expected = model.task.make_predict()(model.variables, {"image": images}, jax.random.key(0))
        np.testing.assert_allclose(vectors, expected["embedding"], atol=1e-5)

    @pytest.mark.slow
    def test_a_captioner_with_its_search(self, tmp_path: Path, photos: list[Path]) -> None:
        model = captioner()
        model.task.settings.decoding.method = "beam"
        exported(model, "stablehlo", tmp_path / "x", "--platforms=cpu")
        captions = [prediction.caption for prediction in model([str(p) for p in photos])]
        assert run_example(tmp_path / "x", photos) == captions


@pytest.mark.parametrize("crop", [None, 0.8])
@pytest.mark.parametrize("fit", ["crop", "squash", "pad"])
def test_an_example_prepares_images_as_pillow_does(
    fit: str, crop: float | None, tmp_path: Path, drawings: list[Path]
) -> None:
    model = classifier(eval_fit=fit, eval_interpolation="bicubic", eval_crop_pct=crop)
    folder.write_description(tmp_path, model, "onnx", [], ".onnx")
    functions = (tmp_path / "example.py").read_text("utf-8").split("images = ")[0]
    names = {"__file__": str(tmp_path / "example.py")}
    exec(functions.replace("import onnxruntime", ""), names)
    transform, expected = model.task.image_transform(train=False), np.empty((16, 16, 3), np.uint8)
    for drawing in drawings:
        transform(open_image(drawing.read_bytes()), None, expected)
        np.testing.assert_array_equal(names["pixels"](drawing), expected)


class TestUsage:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--format=onnx", "--output=x"], "--model is missing"),
            (["--model=x", "--format=onx", "--output=x"], "did you mean onnx"),
            (["--model=x", "--format=onnx", "--output=x", "--quantize=int4"], "must be int8"),
            (
                ["--model=x", "--format=immich", "--output=x", "--dynamic_size"],
                "--dynamic_size goes with --format=onnx or stablehlo",
            ),
            (
                ["--model=x", "--format=stablehlo", "--output=x", "--quantize=int8"],
                "--quantize goes with --format=onnx",
            ),
            (
                ["--model=x", "--format=stablehlo", "--output=x", "--platforms=cpu,cude"],
                "did you mean cuda",
            ),
        ],
    )
    def test_wrong_use(self, arguments: list[str], message: str) -> None:
        done = call("export", *arguments)
        assert done.status == 2 and message in done.err and done.err.count("\n") == 1

    def test_a_folder_with_files_stays(self, tmp_path: Path) -> None:
        (tmp_path / "mine.txt").write_text("mine")
        done = call("export", "--model=x", "--format=stablehlo", f"--output={tmp_path}")
        assert done.status == 1 and "not empty" in done.err
        assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]

    def test_an_absent_model_leaves_nothing(self, tmp_path: Path) -> None:
        done = call("export", "--model=x", "--format=stablehlo", f"--output={tmp_path / 'x'}")
        assert done.status == 1 and "x is no work directory" in done.err
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize(("form", "package"), [("onnx", "onnx"), ("stablehlo", "flatbuffers")])
    def test_a_missing_package_is_named(self, form: str, package: str, tmp_path: Path) -> None:
        with mock.patch("importlib.util.find_spec", lambda *_: None):
            done = call("export", "--model=x", f"--format={form}", f"--output={tmp_path / 'x'}")
        assert done.status == 2 and f"pip install 'jaxtag[{form}]'" in done.err
        assert package in done.err


@pytest.mark.parametrize("task", ["classify", "tag", "embed", "caption"])
@pytest.mark.parametrize("form", ["onnx", "stablehlo"])
def test_examples_are_short_and_need_no_jaxtag(form: str, task: str) -> None:
    program = examples.example(form, task)
    assert program is not None and "import jaxtag" not in program
    compile(program, "example.py", "exec")
    assert max(map(len, program.splitlines())) <= 100
