"""A captioner of transformers as a work directory: the same tokens, used at once."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from calling import call
from PIL import Image
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from stored import REFERENCES

from jaxtag.config import serialization
from jaxtag.errors import UserError
from jaxtag.inference import predictor
from jaxtag.inference.checkpoint import import_checkpoint, open_checkpoint

FILE = REFERENCES / "weights_captioner.safetensors"


@pytest.fixture(scope="module")
def stored() -> tuple[dict[str, np.ndarray], dict[str, str], dict[str, list[str]]]:
    """Tensors, the files of the captioner's folder, and the texts it gives by number of beams."""
    with safe_open(FILE, "np") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        notes = file.metadata()
    return tensors, json.loads(notes["files"]), json.loads(notes["texts"])


def unpack(stored, folder: Path, without: tuple[str, ...] = (), **changes) -> Path:
    """The captioner's folder; `changes` are of config.json."""
    tensors, files, _ = stored
    folder.mkdir()
    for name, text in files.items():
        if name == "config.json":
            text = json.dumps({**json.loads(text), **changes})
        if name not in without:
            (folder / name).write_text(text)
    weights = {
        name.removeprefix("weights/"): tensor
        for name, tensor in tensors.items()
        if name.startswith("weights/")
    }
    save_file(weights, folder / "model.safetensors")
    return folder


@pytest.fixture(scope="module")
def workdir(stored, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("imported")
    source = unpack(stored, folder / "source")
    done = call("weights", "import", f"--source={source}", f"--workdir={folder / 'run'}")
    assert done.status == 0, done.err
    return folder / "run"


@pytest.mark.parametrize("beams", [1, 3])
def test_tokens_are_those_of_transformers(stored, workdir, beams: int) -> None:
    tensors, _, texts = stored
    config = serialization.load(workdir)
    assert (config.task.decoding.method, config.task.decoding.beam_size) == ("beam", 3)
    config.task.decoding.method = "beam" if beams > 1 else "greedy"
    model = predictor.load(workdir, config)
    generate = model.task.make_generate()
    captions = generate(model.variables, {"image": tensors["pictures"]}, jax.random.key(0))
    expected = tensors[f"tokens/{beams}"]
    mark = expected[0, 0]
    ended = (expected == mark).cumsum(1) > 2  # they fill with the mark, we with no token
    got = np.asarray(captions["tokens"])[:, : expected.shape[1]]
    np.testing.assert_array_equal(np.where(ended, mark, got), expected)
    assert (got[ended] == -1).all()
    cleaned = [" ".join(text.replace("\ufffd", "").split()) for text in texts[str(beams)]]
    assert model.vocabulary.decode_batch(captions["tokens"]) == cleaned


def test_annotate_uses_it_at_once(stored, workdir, tmp_path) -> None:
    tensors, _, texts = stored
    for number, picture in enumerate(tensors["pictures"]):
        Image.fromarray(picture).save(tmp_path / f"{number}.png")
    output = tmp_path / "captions.jsonl"
    done = call("annotate", f"--workdir={workdir}", f"--output={output}", tmp_path)
    assert done.status == 0, done.err
    lines = [json.loads(line) for line in output.read_text().splitlines()]
    cleaned = [" ".join(text.replace("\ufffd", "").split()) for text in texts["3"]]
    assert [line["caption"] for line in lines] == cleaned


def test_it_goes_back_to_transformers(stored, workdir, tmp_path) -> None:
    """Its positions are cut to the length of captions."""
    done = call("weights", "export", f"--workdir={workdir}", f"--hub_folder={tmp_path}")
    assert done.status == 0, done.err
    saved = load_file(tmp_path / "model.safetensors")
    for name, tensor in stored[0].items():
        if name.startswith("weights/") and "pooler" not in name:
            ours = saved.pop(name.removeprefix("weights/"))
            np.testing.assert_array_equal(ours, tensor[: len(ours)], err_msg=name)
    assert not saved
    opened = open_checkpoint(tmp_path)
    assert opened.task.config == serialization.load(workdir)
    assert "caption" in (tmp_path / "README.md").read_text()


def test_evaluate_uses_it_at_once(workdir, tiny_data) -> None:
    done = call(
        "evaluate", f"--workdir={workdir}", "--config.data.dataset=tiny",
        f"--config.data.data_dir={tiny_data}", "--config.evaluation.batch_size=8",
    )  # fmt: skip
    assert done.status == 0, done.err
    assert np.isfinite(done.last["cross_entropy"])


def test_older_tokenizer_files_and_a_length_of_ones_own(stored, tmp_path, workdir) -> None:
    left_out = ("tokenizer.json", "tokenizer_config.json", "generation_config.json")
    source = unpack(stored, tmp_path / "source", left_out)
    config = import_checkpoint(source, tmp_path / "run", max_length=9)
    assert (config.task.max_length, config.task.decoding.method) == (9, "greedy")
    old, new = (predictor.load(folder).vocabulary for folder in (tmp_path / "run", workdir))
    text = ["two red circles; it's <|endoftext|> a star!"]
    np.testing.assert_array_equal(old.encode(text, 64), new.encode(text, 64))
    with pytest.raises(UserError, match="holds a run already"):
        import_checkpoint(source, tmp_path / "run")


@pytest.mark.parametrize(
    "without, changes, message",
    [
        ((), {"model_type": "vit"}, "does not name the classes"),
        ((), {"decoder": {"model_type": "bert"}}, r"decoder\.model_type = 'bert'"),
        (("preprocessor_config.json",), {}, "preprocessor_config"),
        (("tokenizer.json", "vocab.json"), {}, r"neither tokenizer\.json, nor"),
        (("config.json",), {}, "give --backbone=NAME"),
    ],
)
def test_what_cannot_be_imported_is_named(stored, tmp_path, without, changes, message) -> None:
    source = unpack(stored, tmp_path / "source", without, **changes)
    with pytest.raises(UserError, match=message):
        import_checkpoint(source, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_untied_output_weights_are_refused(stored, tmp_path) -> None:
    source = unpack(stored, tmp_path / "source")
    weights = {n.removeprefix("weights/"): t for n, t in stored[0].items() if "weights/" in n}
    tied = weights["decoder.transformer.wte.weight"]
    save_file({**weights, "decoder.lm_head.weight": tied}, source / "model.safetensors")
    import_checkpoint(source, tmp_path / "run")
    save_file({**weights, "decoder.lm_head.weight": 2 * tied}, source / "model.safetensors")
    with pytest.raises(UserError, match=r"lm_head"):
        import_checkpoint(source, tmp_path / "other")
