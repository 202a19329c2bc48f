"""Writes what runs, indexes, weights and prepared data sets keep, by the library itself."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from labelled import lay, picture
from profiling_example import profile
from tiny import tiny_config

from jaxtag import datasets, models, weights
from jaxtag.config import flags, serialization
from jaxtag.data.labels import LabelNames
from jaxtag.data.tokenizer import Tokenizer
from jaxtag.inference.writers import xmp
from jaxtag.perf.profile import report
from jaxtag.tag_index.storage import IndexStorage
from jaxtag.tasks.tag.calibration import TagCalibration
from jaxtag.training import checkpoint_manifest
from jaxtag.training.checkpoint import Checkpoints


def _captioner(root: Path) -> None:
    (root / "config.json").write_text(serialization.to_json(tiny_config(root)))


def _tagger(root: Path) -> None:
    config = flags.get_config(json.dumps({"reference": "corel5k_tag", "values": []}))
    (root / "config.json").write_text(serialization.to_json(config))


def _labels(root: Path) -> None:
    names = ["cat", "dog", "Möwe"]
    LabelNames(tuple(names)).save(root / "tags.json")
    TagCalibration(1.5, -0.2, (0.5, 0.3, 0.9)).save(root / "thresholds.json", names)


def _tokenizer(root: Path) -> None:
    captions = ["a dog runs", "the cat sleeps", "a bird"]
    Tokenizer.train(captions, 280).save(root / "tokenizer.json")


def _data(root: Path) -> None:
    was = {"train": {"dataset": "x", "examples": 3, "digest": "y"}}
    (root / "data.json").write_text(json.dumps(was))
    lay(root / "checkpoints" / "3", {"state": b"123", "config/metadata": "{}"})
    checkpoint_manifest.write(root / "checkpoints" / "3", {"data": was, "labels": ["a"]})


def _checkpoint(root: Path) -> None:
    with Checkpoints(root / "checkpoints", keep_last=2, best_metric="loss") as checkpoints:
        checkpoints.save(1, {"w": jnp.ones(3)}, config={"a": 1}, metrics={"loss": 0.5})
        checkpoints.save(2, {"w": jnp.ones(3)}, config={"a": 1}, metrics={"loss": 0.4})


def _metrics(root: Path) -> None:
    rows = [{"step": n, "split": "train", "loss": 0.5} for n in range(4)]
    (root / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def _index(root: Path) -> None:
    storage = IndexStorage.create(root, {"workdir": "x", "dimension": 4, "metric": "cosine"})
    rng = np.random.default_rng(0)
    storage.add(["a.jpg", "b.jpg"], rng.normal(size=(2, 4)), [["sea", "sky"], ["dog"]])
    storage.add(["c.jpg"], rng.normal(size=(1, 4)), [[]])
    storage.tag("new", ["a.jpg", "c.jpg"])
    storage.untag("sea", ["a.jpg"])
    storage.remove(["b.jpg"])


def _weights(library: str, model: str, **fields: Any) -> Callable[[Path], None]:
    def write(root: Path) -> None:
        module = models.create(model, num_classes=3, **fields)
        shapes = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
        zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
        details = {"labels": ["a", "b", "c"], "preprocessing": models.get_preprocessing(model)}
        weights.save(root, module, zeros, library, image_size=32, **details)

    return write


def _prepared(root: Path) -> None:
    images = {f"{label}/{n}.jpg": picture(9 * n) for n in range(3) for label in ("cat", "dog")}
    source = lay(root.with_name("images"), images)
    datasets.prepare("mine", source, root)
    shutil.rmtree(source)


def _sidecar(root: Path) -> None:
    lay(root, {"x.jpg": picture()})
    writer = xmp.XmpWriter(0.0)
    row = {"file": str(root / "x.jpg"), "tags": [{"tag": "sea", "score": 0.9}], "caption": "a sea"}
    writer.write(row)
    writer.close()


def _profile(root: Path) -> None:
    report.write_json(profile(), root)


_VIT = {"depth": 1, "width": 16, "heads": 2, "mlp_dim": 16}
# name -> (check of `targets.CHECKS`, what writes the files)
WRITERS: dict[str, tuple[str, Callable[[Path], None]]] = {
    "captioner": ("config", _captioner),
    "tagger": ("config", _tagger),
    "labels": ("vocabulary", _labels),
    "tokenizer": ("vocabulary", _tokenizer),
    "data": ("data", _data),
    "checkpoint": ("checkpoint", _checkpoint),
    "metrics": ("metrics", _metrics),
    "index": ("index", _index),
    "weights": ("weights", _weights("jaxtag", "vit_tiny_patch16", **_VIT)),
    "transformers": ("weights", _weights("transformers", "vit_tiny_patch16", **_VIT)),
    "timm": ("weights", _weights("timm", "mobilenet_v3_small", width=0.1)),
    "prepared": ("prepared", _prepared),
    "sidecar": ("sidecar", _sidecar),
    "profile": ("profile", _profile),
}
