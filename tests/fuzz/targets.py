"""What reads mutated files: each check raises UserError or DecodeError, or nothing."""

import contextlib
import json
import os
import random
from pathlib import Path
from typing import Any

import numpy as np
from labelled import list_own

from jaxtag import datasets
from jaxtag.data import pipeline
from jaxtag.data.decode import decode, open_image
from jaxtag.data.embedded_metadata import read_embedded
from jaxtag.data.image_reader import DecodeError
from jaxtag.data.transforms import CenterCrop, Resize
from jaxtag.datasets.archives import ReadError
from jaxtag.datasets.base import ImageRecord
from jaxtag.datasets.source_files import SourceFiles
from jaxtag.datasets.verify import ImageVerifier, PrepareReport, VerifiedCache


def check_image(case: Path, rng: random.Random) -> None:
    """`decode`, `prepare` and `annotate` judge an image alike, and see the same pixels."""
    (path,) = case.iterdir()
    data = path.read_bytes()
    pixels, reason = None, ""
    try:
        pixels = decode(data)
    except DecodeError as error:
        reason = str(error)
    report = PrepareReport()
    verify = ImageVerifier(report, VerifiedCache(case / "none"), num_threads=1)
    stored = [s for _, s in verify("train", [ImageRecord("x", lambda: data)])]
    assert (pixels is None) == (not stored), ("prepare", reason, report.ledger)
    for transform in (CenterCrop(16), Resize(24)):
        batches = pipeline.image_batches([data], image=transform, batch_size=1, num_threads=0)
        error = next(batches)["error"][0]
        batches.close()
        assert bool(error) == (pixels is None), ("annotate", reason, error)
    read_embedded(str(path))
    if pixels is None:
        raise DecodeError(reason)
    np.testing.assert_array_equal(decode(stored[0]), pixels)
    reader = open_image(data)
    assert (reader.height, reader.width) == pixels.shape[:2] or reader.factor(1.0) < 1
    decode(data, min_size=rng.choice((1, 8, 20)))


def check_own(case: Path, rng: random.Random) -> None:
    """A folder of one's own images, listed; now and then it is prepared as a whole."""
    listing = list_own(case)
    for images in listing.splits.values():
        for image in images:
            image.file.encode()
            json.dumps(dict(image.fields), ensure_ascii=False).encode()
    if rng.random() < 0.03:
        _prepare("mine", case)


def check_form(case: Path, rng: random.Random) -> None:
    """A folder in the form of a tool, listed, and its images read."""
    with datasets.builder_class("mine").open_listing(case) as listing:
        for images in listing.splits.values():
            for image in images:
                image.file.encode()
                json.dumps(dict(image.fields), ensure_ascii=False).encode()
                try:
                    image.load()
                except ReadError as error:
                    assert str(error)
    if rng.random() < 0.03:
        _prepare("mine", case)


def _prepare(dataset: str, source: Path) -> None:
    data_dir = source.with_name(source.name + "-data")
    try:
        str(datasets.prepare(dataset, source, data_dir, num_threads=1))
    finally:
        _remove(data_dir)


def _remove(folder: Path) -> None:
    import shutil

    shutil.rmtree(folder, ignore_errors=True)


def check_scores(case: Path, rng: random.Random) -> None:
    """Captions in COCO's form, scored."""
    from jaxtag.metrics.captioning import coco_format

    (results,) = case.glob("results.*")
    coco_format.score_files(results, case / "references.json")


def check_archive(case: Path, rng: random.Random) -> None:
    """An archive, every member read, and listed as one's own images."""
    with SourceFiles(case) as source:
        for name in source.names():
            try:
                source.size(name)
                source.read(name)
            except ReadError as error:
                assert str(error)
    check_own(case, rng)


def check_official(dataset: str):
    """A check of a data set in its official layout."""

    def check(case: Path, rng: random.Random) -> None:
        if rng.random() < 0.02:
            _prepare(dataset, case)
        with datasets.builder_class(dataset).open_listing(case) as listing:
            for images in listing.splits.values():
                for image in images[:3]:
                    try:
                        image.load()
                    except ReadError as error:
                        assert str(error)
                    json.dumps(dict(image.fields), ensure_ascii=False, default=str).encode()

    return check


def check_config(case: Path, rng: random.Random) -> None:
    """The configuration of a run, read and resolved."""
    from jaxtag.config import checks, serialization

    checks.check(serialization.load(case))


def check_vocabulary(case: Path, rng: random.Random) -> None:
    """Labels, thresholds and the tokenizer of a run."""
    from jaxtag.data.labels import LabelNames
    from jaxtag.data.tokenizer import Tokenizer
    from jaxtag.tasks.tag.calibration import TagCalibration

    if (case / "tokenizer.json").exists():
        tokenizer = Tokenizer.load(case / "tokenizer.json")
        tokenizer.decode(tokenizer.encode(["a dog"], 8)[0])
    else:
        names = LabelNames.load(case / "tags.json")
        TagCalibration.load(case / "thresholds.json", names.names)


def check_data(case: Path, rng: random.Random) -> None:
    """The fingerprint of a run's data, with the manifest of its checkpoint."""
    from jaxtag.training import checkpoint_manifest, run_data

    now = {"train": {"dataset": "x", "examples": 3, "digest": "y"}}
    run_data._compare_data(case, now, [], allow_changes=False)
    try:
        checkpoint_manifest.verify(case / "checkpoints" / "3")
    except checkpoint_manifest.DamagedCheckpointError as error:
        assert str(error)


def check_checkpoint(case: Path, rng: random.Random) -> None:
    """What is read of a checkpoint before its arrays."""
    from jaxtag.training.checkpoint import Checkpoints

    with Checkpoints(case / "checkpoints", keep_last=2) as checkpoints:
        checkpoints.best_step()
        checkpoints.restore_config()


def check_metrics(case: Path, rng: random.Random) -> None:
    """metrics.jsonl, which a run that goes on shortens."""
    from jaxtag.training.metric_writer import _drop_after

    _drop_after(case / "metrics.jsonl", 2)


def check_index(case: Path, rng: random.Random) -> None:
    """A tag index: manifest, journal, vectors."""
    from jaxtag.tag_index.storage import IndexStorage

    storage = IndexStorage(case)
    for vectors in storage.vectors():
        assert np.isfinite(vectors).all()
    storage.tags()
    storage.tag("new", list(storage.files)[:1])
    storage.compact()


def check_weights(case: Path, rng: random.Random) -> None:
    """A file of weights, with what lies beside it."""
    from jaxtag.weights import (
        hf_captioners,
        hf_config,
        preprocessing,
        safetensors_io,
        timm_config,
    )
    from jaxtag.weights.tensors import Tensors

    tensors = Tensors(case)
    for name in tensors:
        tensors.shape(name)
        if not name.endswith("num_batches_tracked"):
            safetensors_io.is_finite(tensors[name])
    preprocessing.load_preprocessing(case)
    values = safetensors_io.read_json(case / "config.json")
    if "architecture" in values:
        timm_config.parse_config(values, "config.json")
    elif values.get("model_type") in hf_captioners.MODEL_TYPES:
        hf_captioners.parse_config(values, "config.json")
    elif values:
        hf_config.parse_config(values, "config.json")


def check_prepared(case: Path, rng: random.Random) -> None:
    """A prepared data set, opened and read."""
    source = datasets.open_split("mine", "train", case)
    for record in source.__getitems__(range(len(source))):
        assert record["file"] is not None
    source.read_range(0, len(source))
    list(source.iter_fields(["file", "label"]))
    source.fingerprint()
    source.class_names()
    with contextlib.suppress(TypeError):  # `prepare` says what is wrong
        str(datasets.Summary.load(source.folder))


def check_sidecar(case: Path, rng: random.Random) -> None:
    """A sidecar that another program wrote, with new tags."""
    from jaxtag.inference.writers.xmp import XmpWriter

    writer = XmpWriter(0.0)
    row = {"file": str(case / "x.jpg"), "tags": [{"tag": "dog", "score": 0.9}], "caption": "new"}
    writer.write(row)
    writer.close()


def check_profile(case: Path, rng: random.Random) -> None:
    """The JSON of a profile, compared with itself."""
    from jaxtag.perf.profile import diff, report

    diff.table(report.load(str(case)), report.load(str(case)))


def _crash(case: Path, rng: random.Random) -> None:
    os.abort()


def _hang(case: Path, rng: random.Random) -> None:
    while True:
        pass


def _bomb(case: Path, rng: random.Random) -> None:
    np.ones(1200 << 20, np.uint8)


def _traceback(case: Path, rng: random.Random) -> None:
    raise ZeroDivisionError


CHECKS: dict[str, Any] = {
    "image": check_image,
    "own": check_own,
    "form": check_form,
    "scores": check_scores,
    "archive": check_archive,
    "config": check_config,
    "vocabulary": check_vocabulary,
    "data": check_data,
    "checkpoint": check_checkpoint,
    "metrics": check_metrics,
    "index": check_index,
    "weights": check_weights,
    "prepared": check_prepared,
    "sidecar": check_sidecar,
    "profile": check_profile,
    **{"crash": _crash, "hang": _hang, "bomb": _bomb, "traceback": _traceback},
    **{f"official {name}": check_official(name) for name in datasets.NAMES},
}
