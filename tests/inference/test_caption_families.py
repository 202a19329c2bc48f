"""BLIP and GIT: the logits and the captions of transformers, with prompts too, and back."""

import json

import jax
import numpy as np
import pytest
from calling import call
from safetensors.numpy import load_file
from stored_captioners import FAMILIES, stored, unpack

import jaxtag
from jaxtag import weights
from jaxtag.data.tokenizer import PAD
from jaxtag.decoding.generate import generate
from jaxtag.errors import UserError
from jaxtag.inference import checkpoint
from jaxtag.weights import hf_captioners

LENGTH = 14  # of the references' captions


@pytest.fixture(scope="module", params=FAMILIES)
def family(request, tmp_path_factory):
    """(name, folder, predictor of captions of 14 tokens, as the references are)."""
    folder = unpack(request.param, tmp_path_factory.mktemp("families") / request.param)
    opened = checkpoint.open_checkpoint(folder, max_length=LENGTH)
    return request.param, folder, opened


def captions(opened, images: np.ndarray, beams: int, prompts: list[str]) -> np.ndarray:
    """Prompts of all kinds have as many columns, and so one program."""
    task = opened.task
    tokens = None
    if any(prompts):
        tokens = task.encode_prompts([*prompts, "two small dogs"])[:-1]
    method = {"method": "beam", "beam_size": beams} if beams > 1 else {"method": "greedy"}
    ids = {"bos_id": task.vocabulary.bos_id, "eos_id": task.vocabulary.eos_id, "pad_id": PAD}
    output = generate(
        task.captioner, opened.variables, task.normalize(images), prompts=tokens,
        max_length=LENGTH, **method, **ids,
    )  # fmt: skip
    return np.asarray(output["tokens"])


def test_logits_are_those_of_transformers(family) -> None:
    name, _, opened = family
    tensors = stored(name)[0]
    images = opened.task.normalize(tensors["images"])
    outputs = jax.jit(opened.task.captioner.apply)(
        opened.variables, images, tensors["given"][:, None]
    )
    np.testing.assert_allclose(outputs["logits"][:, 0], tensors["logits"], atol=1e-4, rtol=1e-5)


# Greedy and beam search, with prompts and without (one of each's own is empty); the rest are slow.
DEFAULT = {"blip": (("", 3), ("shared", 1), ("own", 1)), "git": (("own", 3),)}
CASES = [
    pytest.param(
        name, kind, beams, marks=() if (kind, beams) in DEFAULT[name] else pytest.mark.slow
    )
    for name in FAMILIES
    for kind in ("", "shared", "own")
    for beams in (1, 3)
]


@pytest.mark.parametrize("family, kind, beams", CASES, indirect=["family"])
def test_captions_are_those_of_transformers(family, kind: str, beams: int) -> None:
    name, _, opened = family
    tensors, _, prompts = stored(name)
    got = captions(opened, tensors["images"], beams, prompts[kind])
    expected = tensors[f"tokens/{kind}/{beams}"]
    assert len(np.unique((expected != PAD).sum(1))) > 1  # some end, some are cut
    np.testing.assert_array_equal(got, expected)


def test_a_prompt_begins_every_caption(tmp_path) -> None:
    folder = unpack("blip", tmp_path / "blip")
    images = stored("blip")[0]["images"]
    predictor = jaxtag.load(folder)
    predictor.task.settings.decoding.method = "sample"
    prompts = ["a photo of", "two small dogs", "the cat"]
    predictions = predictor(list(images[:3]), prompts=prompts)
    for prediction, prompt in zip(predictions, prompts, strict=True):
        assert prediction.caption.startswith(prompt)
    with pytest.raises(UserError, match=r"'a a a.*has 19 tokens: at most 18"):
        predictor.task.encode_prompts(["red", " ".join("a" * 19)])
    with pytest.raises(UserError, match="1 prompts were given for 2 images"):
        predictor(list(images[:2]), prompts=["a"])


@pytest.mark.parametrize(
    "family", [pytest.param("blip", marks=pytest.mark.slow), "git"], indirect=True
)
def test_an_exported_captioner_comes_back(family, tmp_path) -> None:
    """The run of an imported one, its positions cut to the length of captions."""
    _, folder, _ = family
    run, again = tmp_path / "run", tmp_path / "again"
    for arguments in (
        ("import", f"--source={folder}", f"--workdir={run}", "--max_length=24"),
        ("export", f"--workdir={run}", "--library=transformers", f"--output={again}"),
    ):
        done = call("weights", *arguments)
        assert done.status == 0, done.err
    expected = load_file(folder / "model.safetensors")
    saved = load_file(again / "model.safetensors")
    assert saved.keys() == expected.keys()
    for key, tensor in expected.items():
        np.testing.assert_array_equal(saved[key], tensor, err_msg=key)
    configs = [json.loads((path / "config.json").read_text()) for path in (folder, again)]
    first, second = (hf_captioners.parse_config(values, "config.json") for values in configs)
    assert (first.encoder, first.decoder) == (second.encoder, second.decoder)
    assert (first.bos_id, first.eos_id) == (second.bos_id, second.eos_id)
    assert weights.load_preprocessing(again) == weights.load_preprocessing(folder)
    opened = checkpoint.open_checkpoint(again)
    original = checkpoint.open_checkpoint(folder, max_length=24)
    assert opened.task.config == original.task.config
    assert opened.task.vocabulary.encode(["red dogs"], 8).tolist() == (
        original.task.vocabulary.encode(["red dogs"], 8).tolist()
    )


@pytest.mark.slow
def test_training_starts_from_imported_weights(family, tmp_path, tiny_data) -> None:
    """With a learning rate of 0 they stay."""
    _, folder, _ = family
    run = tmp_path / "run"
    done = call("weights", "import", f"--source={folder}", f"--workdir={run}")
    assert done.status == 0, done.err
    done = call(
        "train", f"--workdir={run}", "--allow_changes", "--config.data.dataset=tiny",
        f"--config.data.data_dir={tiny_data}", "--config.total_steps=1", "--config.batch_size=8",
        "--config.optimizer.learning_rate=0.0", "--config.evaluation.batch_size=8",
    )  # fmt: skip
    assert done.status == 0, done.err
    trained, imported = jaxtag.load(run), checkpoint.open_checkpoint(folder)
    assert trained.step == 1
    jax.tree.map(np.testing.assert_array_equal, trained.variables, imported.variables)


@pytest.mark.parametrize(
    "name, changes, message",
    [
        ("git", {"num_image_with_embedding": 6}, "num_image_with_embedding = 6: only None"),
        ("git", {"hidden_act": "relu"}, "hidden_act = 'relu': only 'gelu'"),
        ("git", {"intermediate_size": 100}, "intermediate_size = 100: only 64"),
        ("blip", {"vision_config": 3}, "vision_config must be an object"),
    ],
)
def test_what_has_no_counterpart_is_named(tmp_path, name, changes, message) -> None:
    with pytest.raises(UserError, match=message):
        checkpoint.open_checkpoint(unpack(name, tmp_path / name, **changes))
