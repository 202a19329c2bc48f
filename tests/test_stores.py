"""Data, runs, weights and outputs on an object store: the bits of a local run.

The store is the fake of `fake_gcs.py`, which gcsfs, TensorStore and array_record reach.
"""

import json
import os

import jax
import numpy as np
import pytest
from calling import call
from fake_gcs import Fault, faults_at_rate
from PIL import Image

from jaxtag.inference import predictor
from jaxtag.storage import store_errors, store_lock
from jaxtag.training import checkpoint_manifest
from jaxtag.training.checkpoint import Checkpoints

STEPS = int(os.environ.get("JAXTAG_TEST_STEPS", "100"))  # of the run with failing requests
OVERRIDES = (
    "--config.total_steps=6",
    "--config.log_every=1",
    "--config.checkpoint_every=2",
    "--config.evaluate_every=6",
)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A folder of pictures with captions."""
    folder = tmp_path_factory.mktemp("photos")
    lines = []
    for number in range(16):
        name = f"{number:02}.jpg"
        Image.new("RGB", (40 + number, 48), (15 * number, 30, 200)).save(folder / name)
        split = "train" if number < 12 else "validation"
        lines.append({"file": name, "caption": f"picture {number}", "split": split})
    (folder / "captions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


@pytest.fixture(scope="module")
def config(photos, tmp_path_factory):
    path = tmp_path_factory.mktemp("configs") / "stored.py"
    path.write_text(
        "from tiny import tiny_config\n\ndef get_config(data_dir: str):\n"
        "    return tiny_config(data_dir, total_steps=6)\n"
    )
    return path


@pytest.fixture(scope="module")
def local(photos, config, tmp_path_factory):
    """The same on this machine's disk: the folder with `data`, `run` and `out.jsonl`."""
    folder = tmp_path_factory.mktemp("local")
    _run(photos, folder, config)
    return folder


def _run(photos, folder, config):
    _call("prepare", "--dataset=tiny", f"--source={photos}", f"--data_dir={folder}/data")
    _call(
        "train", f"--config={config}:data_dir={folder}/data", f"--workdir={folder}/run", *OVERRIDES
    )
    evaluated = _call("evaluate", f"--workdir={folder}/run")
    _call("annotate", f"--workdir={folder}/run", f"--output={folder}/out.jsonl", f"{photos}/*.jpg")
    return evaluated


def _call(name, *arguments):
    done = call(name, *arguments)
    assert done.status == 0, done.err
    return done


def _lines(text):
    return [json.loads(line) for line in text.splitlines()]


def _curve(text):
    """What `metrics.jsonl` holds, without times."""
    return [
        {n: v for n, v in line.items() if "second" not in n and n != "data_wait_fraction"}
        for line in _lines(text)
    ]


def _equal_checkpoints(ours, theirs):
    ours, theirs = (predictor.load(f"{folder}/run") for folder in (ours, theirs))
    assert ours.step == theirs.step == 6
    jax.tree.map(np.testing.assert_array_equal, ours.variables, theirs.variables)


def test_the_way_from_pictures_to_captions(gcs, photos, config, local, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for file in photos.iterdir():
        gcs.write(f"photos/{file.name}", file.read_bytes())
    gcs.page_size = 4
    evaluated = _run("gs://bucket/photos", "gs://bucket", config)
    assert not list(tmp_path.iterdir())  # no folder called gs:
    saved = json.loads((local / "run" / "evaluation.json").read_text())
    assert json.loads(gcs.read("run/evaluation.json")) == saved
    assert evaluated.last["step"] == 6
    metrics = gcs.read("run/metrics.jsonl").decode()
    assert _curve(metrics) == _curve((local / "run" / "metrics.jsonl").read_text())
    _equal_checkpoints("gs://bucket", local)
    rows, expected = (
        _lines(gcs.read("out.jsonl").decode()),
        _lines((local / "out.jsonl").read_text()),
    )
    assert [row.pop("file") for row in rows] == [
        f"gs://bucket/photos/{n:02}.jpg" for n in range(16)
    ]
    assert [row.pop("file") for row in expected] and rows == expected
    # What a run leaves there: the newest steps, and no lock.
    steps = {name.split("/")[2] for name in gcs.names("run/checkpoints/")}
    assert steps == set(map(str, Checkpoints("gs://bucket/run/checkpoints", keep_last=1).steps()))
    assert "run/lock.json" not in gcs.names() and gcs.names("run/board/")


def test_a_run_that_fails_goes_on_where_it_had_saved(gcs, config, local, monkeypatch):
    arguments = (
        f"--config={config}:data_dir={local}/data",
        "--workdir=gs://bucket/run",
        *OVERRIDES,
    )
    save = Checkpoints.save

    def fail_at_4(checkpoints, step, *rest, **others):
        if step == 4:
            raise KeyboardInterrupt
        return save(checkpoints, step, *rest, **others)

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save", fail_at_4)
        assert call("train", *arguments).status == 130
    lines = _lines(gcs.read("run/metrics.jsonl").decode())
    assert {line["step"] for line in lines} >= {1, 2}
    # As a process leaves it that is killed while it saves: no mark of the commit, or no manifest.
    for name in gcs.names("run/checkpoints/2/"):
        if not name.endswith("2/commit_success.txt"):
            gcs.write(name.replace("checkpoints/2/", "checkpoints/3/"), gcs.read(name))
    done = _call("train", *arguments)
    assert "going on from step 2" in done.err
    metrics = gcs.read("run/metrics.jsonl").decode()
    assert _curve(metrics) == _curve((local / "run" / "metrics.jsonl").read_text())
    assert not gcs.names("run/checkpoints/3/")
    _equal_checkpoints("gs://bucket", local)


@pytest.mark.slow
def test_one_percent_of_failing_requests_lose_no_step(gcs, photos, config, tmp_path):
    overrides = (
        f"--config.total_steps={STEPS}",
        "--config.log_every=1",
        "--config.checkpoint_every=3",
        f"--config.evaluate_every={STEPS}",
    )
    data = f"{tmp_path}/data"
    _call("prepare", "--dataset=tiny", f"--source={photos}", f"--data_dir={data}")
    _call("train", f"--config={config}:data_dir={data}", f"--workdir={tmp_path}/run", *overrides)
    gcs.faults = faults_at_rate(0.01)
    _call("prepare", "--dataset=tiny", f"--source={photos}", "--data_dir=gs://bucket/data")
    arguments = (f"--config={config}:data_dir=gs://bucket/data", "--workdir=gs://bucket/run")
    _call("train", *arguments, *overrides)
    faults = {kind: n for kind, n in gcs.requests.items() if kind.startswith("fault")}
    print(f"{sum(gcs.requests.values())} requests, of which failed: {faults}")
    metrics = gcs.read("run/metrics.jsonl").decode()
    assert [line["step"] for line in _lines(metrics) if line["split"] == "train"] == [
        *range(1, STEPS + 1)
    ]
    assert _curve(metrics) == _curve((tmp_path / "run" / "metrics.jsonl").read_text())
    gcs.faults = []
    ours, theirs = (predictor.load(f"{folder}/run") for folder in ("gs://bucket", tmp_path))
    jax.tree.map(np.testing.assert_array_equal, ours.variables, theirs.variables)


def test_damage_on_a_store_is_found_by_its_listing(gcs):
    directory = "gs://bucket/run/checkpoints"
    with Checkpoints(directory, keep_last=2) as checkpoints:
        for step in (1, 2, 3):
            checkpoints.save(step, {"x": jax.numpy.arange(100_000.0) + step}, config={"n": step})
    assert checkpoints.steps() == [2, 3]
    reads = gcs.requests["GET data"]
    checkpoint_manifest.verify(f"{directory}/3")
    assert gcs.requests["GET data"] - reads <= 2  # the manifest alone
    largest = max(gcs.names("run/checkpoints/3/state/ocdbt"), key=lambda name: len(gcs.read(name)))
    data = bytearray(gcs.read(largest))
    data[len(data) // 2] ^= 1
    gcs.write(largest, bytes(data))
    again = Checkpoints(directory, keep_last=2)
    described = {"x": jax.ShapeDtypeStruct((100_000,), "float32")}
    assert again.restore(described).step == 2
    with again:
        again.save(3, {"x": jax.numpy.arange(100_000.0)})
    assert again.steps() == [2, 3] and gcs.names("run/checkpoints/3.damaged/")


def test_what_stays_unreachable_is_one_line_and_status_70(gcs, config, monkeypatch):
    monkeypatch.setattr(store_errors, "_PAUSES", ())
    quick = {"max_retries": 1, "initial_delay": "10ms", "max_delay": "10ms"}
    monkeypatch.setattr(store_lock, "_RETRIES", quick)
    monkeypatch.setattr("gcsfs.retry.asyncio.sleep", _no_pause)
    gcs.faults = [Fault(503, rate=1.0)]
    done = call("train", f"--config={config}:data_dir=none", "--workdir=gs://bucket/r", *OVERRIDES)
    assert done.status == 70 and "Traceback" not in done.err
    assert done.err.splitlines()[-1].startswith("error: --workdir=gs://bucket/r cannot be written")


async def _no_pause(_):
    return None


@pytest.mark.parametrize(
    "arguments",
    [
        ("train", "--config=shapes_caption", "--workdir=gs:/bucket/run"),
        ("train", "--config=shapes_caption", "--workdir=foo://bucket/run"),
        ("evaluate", "--workdir=gs:/bucket/run"),
        ("annotate", "--workdir=gs:/bucket/run", "--output=x.jsonl", "a.jpg"),
        ("prepare", "--dataset=shapes_captions", "--data_dir=gs:/bucket"),
        ("prepare", "--dataset=mine", "--source=gs:/bucket", "--data_dir=d"),
        ("index", "info", "--index=gs:/bucket/i"),
    ],
)
def test_a_url_that_is_none_is_refused_at_once(arguments, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = call(*arguments)
    assert done.status == 2 and ("did you mean" in done.err or "not supported" in done.err)
    assert len(done.err.splitlines()) == 1 and not list(tmp_path.iterdir())
