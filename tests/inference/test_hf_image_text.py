"""Published CLIP and SigLIP, used as they are: tags by any words, images by a sentence."""

import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
import tokenizers
from calling import call
from PIL import Image
from stored_image_text import CONFIGS, IDS, WORDS, unpack_whole

from jaxtag.annotation import text_labels
from jaxtag.annotation.text_labels import CalibrationData, TextLabels, apply_labels
from jaxtag.data.sources import as_data_source
from jaxtag.errors import UsageError, UserError
from jaxtag.inference import predictor
from jaxtag.inference.predictor import Predictor
from jaxtag.weights import load
from jaxtag.weights.image_text_files import read_model

pytestmark = pytest.mark.usefixtures("one_device")


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    return unpack_whole("clip", tmp_path_factory.mktemp("published") / "clip")


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    """Images in the size of the model, so that none is resized."""
    return np.random.RandomState(0).randint(0, 256, (3, 16, 16, 3)).astype(np.uint8)


@pytest.fixture(scope="module")
def photos(pixels, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for number, image in enumerate(pixels):
        Image.fromarray(image).save(folder / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def expected(clip, pixels) -> dict[str, np.ndarray]:
    """What the model computes of the images and of each word alone."""
    model = read_model(clip)
    variables = load(clip, model)
    settings = CONFIGS["processors"]["transformers_clip"]
    images = (pixels / 255 - np.array(settings["image_mean"])) / np.array(settings["image_std"])
    tokens = np.array([[38, IDS[word], 39] for word in WORDS])
    outputs = jax.jit(model.apply)(variables, images.astype(np.float32), tokens)
    return {name: np.asarray(array) for name, array in outputs.items()}


def test_annotate_tags_with_any_words(clip, photos, expected, tmp_path) -> None:
    output = tmp_path / "tags.jsonl"
    flags = (f"--model={clip}", "--labels=dog,cat,beach", "--template={}", f"--output={output}")
    done = call("annotate", *flags, photos)
    assert done.status == 0, done.err
    logits = expected["logits"][:, :3]
    probabilities = np.exp(logits - logits.max(1, keepdims=True))
    probabilities /= probabilities.sum(1, keepdims=True)
    lines = [json.loads(line) for line in output.read_text().splitlines()]
    for line, row in zip(lines, probabilities, strict=True):
        scores = {tag["tag"]: tag["score"] for tag in line["tags"]}
        assert scores == pytest.approx(dict(zip(WORDS, row.tolist(), strict=False)), abs=2e-4)
        assert list(scores) == sorted(scores, key=lambda word: -scores[word])


def test_images_are_found_by_words(clip, photos, expected, tmp_path) -> None:
    index, moved = tmp_path / "index", tmp_path / "moved"
    source = shutil.copytree(clip, tmp_path / "model")
    done = call("index", "build", f"--index={index}", f"--model={source}", photos)
    assert done.status == 0, done.err
    texts = ("--text=hund", "--text=dog")
    done = call("index", "search", f"--index={index}", "--top_k=2", *texts)
    assert done.status == 0, done.err
    similarity = expected["text_embedding"][[3, 0]] @ expected["image_embedding"].T
    lines = [json.loads(line) for line in done.out.splitlines()]
    assert [line["text"] for line in lines] == ["hund", "dog"]
    for line, row in zip(lines, similarity, strict=True):
        best = np.argsort(-row)[:2]
        assert [hit["file"] for hit in line["nearest"]] == [f"{photos}/{i}.png" for i in best]
        scores = [hit["score"] for hit in line["nearest"]]
        assert scores == pytest.approx(row[best].tolist(), abs=1e-3)

    source.rename(moved)
    done = call("index", "search", f"--index={index}", "--text=dog")
    assert done.status == 1 and str(source) in done.err
    done = call("index", "search", f"--index={index}", "--text=dog", f"--model={moved}")
    assert f"looks for its model in {moved} from now on" in done.err
    assert json.loads(done.out)["nearest"][:2] == lines[1]["nearest"]
    manifest = json.loads((index / "manifest.json").read_text())
    assert manifest["vectors"]["features"]["workdir"] == str(moved)
    done = call("index", "search", f"--index={index}", "--text=dog", photos)
    assert done.status == 2 and "not both" in done.err


@pytest.fixture(scope="module")
def siglip(tmp_path_factory) -> Predictor:
    return predictor.load(unpack_whole("siglip", tmp_path_factory.mktemp("published") / "siglip"))


def test_siglip_pads_to_its_length_and_lowers_the_case(siglip) -> None:
    dog, beach = IDS["dog"], IDS["beach"]
    expected = [[dog, 0, beach, 1, 1, 1, 1, 1], [0] * 7 + [1]]
    assert siglip.task.tokenize(["DOG at Beach", "x " * 9]).tolist() == expected


def test_scores_are_calibrated_on_labeled_images(siglip, pixels, monkeypatch, capsys) -> None:
    """Tags that the data set lacks share the scale and the shift; synonyms change the vectors."""
    tags = [["dog"], ["cat", "dog"], ["cat"]]
    records = [{"image": image, "tags": row} for image, row in zip(pixels, tags, strict=True)]
    monkeypatch.setattr(text_labels.datasets, "open_split", lambda *_: as_data_source(records))
    data = CalibrationData("mine", "train", None)
    names = ("beach", "dog")
    plain = apply_labels(siglip, TextLabels(names, ("{}",)))
    fitted = apply_labels(siglip, TextLabels(names, ("{}",), calibration=data))
    assert "calibrated on 3 labeled images of mine (train), and the thresholds of 1 of 2" in (
        capsys.readouterr().err
    )
    calibration = fitted.task.calibration
    assert plain.task.calibration is None and calibration.thresholds[0] == 0.5
    raw, scores = (
        np.array([[tag.score for tag in sorted(row.tags)] for row in model(list(pixels), top_k=2)])
        for model in (plain, fitted)
    )
    logits = np.log(raw / (1 - raw))
    expected = 1 / (1 + np.exp(-(calibration.scale * logits + calibration.shift)))
    np.testing.assert_allclose(scores, expected, atol=2e-2)

    vectors = [
        apply_labels(siglip, TextLabels(names, ("{}",), synonyms)).variables["params"]
        for synonyms in ({}, {"dog": ("hund",)})
    ]
    changed = np.abs(vectors[0]["class_embeddings"] - vectors[1]["class_embeddings"]).max(1) > 1e-4
    assert changed.tolist() == [False, True]


def test_thresholds_are_what_few_of_a_background_exceed(siglip, photos, pixels, capsys) -> None:
    files = sorted(map(str, photos.iterdir()))
    tagger = apply_labels(siglip, TextLabels(WORDS[:2], ("{}",), background=files))
    assert "what 1% of 3 unlabeled images exceed" in capsys.readouterr().err
    rows = tagger(list(pixels), top_k=2)
    scores = np.array([[tag.score for tag in sorted(row.tags)] for row in rows])  # cat, dog
    expected = np.quantile(scores, 0.99, axis=0)[::-1]
    np.testing.assert_allclose(tagger.task.calibration.thresholds, expected, atol=5e-3)


def test_wrong_use(clip, photos, tmp_path) -> None:
    output = f"--output={tmp_path / 'x.jsonl'}"
    done = call("annotate", f"--model={clip}", "--template={}", output, photos)
    assert done.status == 2 and "--template goes with --labels" in done.err
    with pytest.raises(UsageError, match="dgo is none of --labels"):
        TextLabels(("dog",), synonyms={"dgo": ("hund",)})
    folder = shutil.copytree(clip, tmp_path / "other")
    backend = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    backend.add_tokens([f"word{number}" for number in range(40)])
    backend.save(str(folder / "tokenizer.json"))
    with pytest.raises(UserError, match="it is another model's"):
        predictor.load(folder)
