"""A run as a repository of the Hub: what libraries load, a model card, the upload."""

import base64
import json

import hub_server
import jax
import numpy as np
import pytest
from calling import call
from huggingface_hub import constants

from jaxtag import models, weights
from jaxtag.config import serialization
from jaxtag.inference import checkpoint, predictor
from jaxtag.models.preprocessing import Preprocessing

VIT = {"patch_size": 8, "width": 24, "depth": 1, "heads": 2, "mlp_dim": 48, "image_size": 32}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The work directory of a classifier, evaluated."""
    folder, workdir = tmp_path_factory.mktemp("timm"), tmp_path_factory.mktemp("runs") / "mine"
    model = models.ViT(**VIT, num_classes=3)
    shapes = jax.eval_shape(model.init, jax.random.key(0), np.zeros((1, 32, 32, 3), np.float32))
    random = np.random.RandomState(0)
    variables = jax.tree.map(lambda a: random.normal(size=a.shape).astype(np.float32), shapes)
    preprocessing = Preprocessing(32, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6), crop=0.8)
    weights.save(
        folder, model, variables, "timm", labels=["cat", "dog", "fox"], preprocessing=preprocessing
    )
    checkpoint.import_checkpoint(folder, workdir)
    (workdir / "evaluation.json").write_text('{"split": "test", "top1": 0.875, "per_class": {}}')
    return workdir


def test_a_published_run_comes_back(tmp_path, run) -> None:
    done = call("weights", "export", f"--workdir={run}", f"--hub_folder={tmp_path / 'mine'}")
    assert done.status == 0, done.err
    card = (tmp_path / "mine/README.md").read_text()
    assert card.startswith('---\nlibrary_name: "timm"\npipeline_tag: "image-classification"\n')
    assert "| top1 | 0.875 |" in card and "cat, dog, fox" in card and "## Limits" in card
    config = serialization.from_json((tmp_path / "mine/jaxtag_config.json").read_text())
    assert config == serialization.load(run)
    before, after = (predictor.load(path) for path in (run, tmp_path / "mine"))
    image = np.random.RandomState(0).randint(0, 256, (40, 50, 3)).astype(np.uint8)
    assert before(image).tags == after(image).tags


def test_a_run_is_uploaded(tmp_path, run, monkeypatch) -> None:
    with hub_server.serve({}) as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        monkeypatch.setenv("HF_TOKEN", hub.token)
        push = ("export", f"--workdir={run}", f"--hub_folder={tmp_path / 'mine'}")
        done = call("weights", *push, "--push=me/mine")
        assert done.status == 0, done.err
        assert done.out.splitlines()[-1] == f"hf:me/mine@{hub_server.COMMIT}"
        uploaded = hub.repos["me/mine"]
        assert {"README.md", "config.json", "model.safetensors"} <= uploaded.keys()
        assert uploaded["README.md"] == (tmp_path / "mine/README.md").read_bytes()
        monkeypatch.setenv("HF_TOKEN", "hf_wrong")
        done = call("weights", *push, "--push=me/mine")
        assert done.status == 1 and "hf:me/mine cannot be uploaded" in done.err


def test_the_commit_is_what_the_protocol_says() -> None:
    """The server's side of an upload, by itself."""
    lines = [
        {"key": "header", "value": {"summary": "x"}},
        {"key": "file", "value": {"path": "a", "content": base64.b64encode(b"1").decode()}},
    ]
    body = "\n".join(map(json.dumps, lines)).encode()
    assert hub_server.files_of_commit(body) == {"a": b"1"}
