"""A run meets data by name: matched, or refused in one line that lists the differences."""

import json
import shutil
import zipfile

import numpy as np
import pytest
from calling import call
from stored import REFERENCES
from tiny import tiny_config

import jaxtag
from jaxtag.config import Config, checks, serialization
from jaxtag.data.label_matching import match_labels
from jaxtag.data.labels import LabelNames
from jaxtag.data.sources import as_data_source
from jaxtag.errors import UserError
from jaxtag.tasks.base import Data
from jaxtag.tasks.embed.config import EmbedConfig
from jaxtag.tasks.embed.task import EmbedTask
from jaxtag.training import checkpoint_manifest, loop, run_config, run_data
from jaxtag.training.callbacks import Callback

pytestmark = pytest.mark.usefixtures("one_device")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A finished run on `data`, a classifier of green and red pictures."""
    folder = tmp_path_factory.mktemp("trained")
    with zipfile.ZipFile(REFERENCES / "run_0_1.zip") as archive:
        archive.extractall(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        jaxtag.fit(serialization.load(folder / "run"), folder / "new")
    return folder


@pytest.fixture
def folder(trained, tmp_path, monkeypatch):
    """A copy of it, in which a test may change the data."""
    shutil.copytree(trained / "data", tmp_path / "data")
    shutil.copytree(trained / "new", tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _set_classes(folder, *names):
    (folder / "data/colours/1.0.0/label.labels.txt").write_text("".join(f"{n}\n" for n in names))


def _set_examples(folder, split, count):
    path = folder / "data/colours/1.0.0/dataset_info.json"
    info = json.loads(path.read_text())
    (entry,) = [entry for entry in info["splits"] if entry["name"] == split]
    entry["shardLengths"] = [str(count)]
    path.write_text(json.dumps(info))


def _open(folder, **flags):
    return run_data.open_data(serialization.load(folder / "run"), folder / "run", **flags)


def test_run_and_checkpoint_hold_names_and_fingerprint(folder):
    recorded = json.loads((folder / "run/data.json").read_text())
    assert {split: entry["examples"] for split, entry in recorded.items()} == {
        "train": 8,
        "validation": 4,
    }
    assert recorded["train"]["dataset"] == "colours/1.0.0"
    manifest = json.loads((folder / "run/checkpoints/4/jaxtag_manifest.json").read_text())
    assert manifest["notes"]["labels"] == ["green", "red"]
    assert manifest["notes"]["data"] == recorded


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (("blue", "green"), "does not know: 'blue'; it lacks classes of the run: 'red'"),
        (("amber", "green", "red"), "does not know: 'amber' (the run knows 2 classes"),
    ],
)
def test_classes_that_the_run_does_not_know_are_refused(folder, classes, message):
    _set_classes(folder, *classes)
    done = call("evaluate", "--workdir=run")
    assert (done.status, done.out) == (1, "")
    assert message in done.err and done.err.count("\n") == 1
    for allow in (False, True):  # a model cannot learn what it has no output for
        with pytest.raises(UserError, match="does not know"):
            _open(folder, allow_changes=allow)


def test_the_same_classes_in_another_order_are_matched_by_name(folder):
    before = call("evaluate", "--workdir=run").last
    _set_classes(folder, "red", "green")  # the records' numbers stay: every label changes its name
    after = call("evaluate", "--workdir=run").last
    assert before["top1"] == 1.0 - after["top1"]
    with pytest.raises(UserError, match="the same labels in another order"):
        _open(folder)
    data = _open(folder, allow_changes=True)
    numbers = [record["label"] for record in data.train.iter_fields(["label"])]
    assert numbers == [record["label"] for record in data.train.__getitems__(range(8))]
    assert data.train.class_names() == ["green", "red"] == list(data.vocabulary.names)


def test_data_that_grew_are_refused_unless_allowed(folder, caplog):
    _open(folder)
    _set_examples(folder, "train", 10)
    # The file holds 8 records: what is compared is the description alone.
    recorded = json.loads((folder / "run/data.json").read_text())
    now = {**recorded, "train": {**recorded["train"], "examples": 10}}
    with pytest.raises(UserError) as refused:
        run_data._compare_data(folder / "run", now, [], allow_changes=False)
    assert "'train' had 8 pictures, now 10" in str(refused.value)
    assert "--allow_changes" in str(refused.value) and "\n" not in str(refused.value)
    run_data._compare_data(folder / "run", now, [], allow_changes=True)
    assert "'train' had 8 pictures, now 10" in caplog.text
    run_data._compare_data(folder / "run", now, [], allow_changes=False)  # written down


def test_as_many_other_pictures_are_noticed(folder):
    path = folder / "data/colours/1.0.0/dataset_info.json"
    path.write_text(path.read_text().replace('"numBytes": "584"', '"numBytes": "585"'))
    done = call("train", f"--config={_config_file(folder)}", "--workdir=run")
    assert done.status == 1
    assert "'validation' holds other pictures or labels" in done.err
    (folder / "run/data.json").unlink()  # a checkpoint knows as well
    with pytest.raises(UserError, match="holds other pictures"):
        _open(folder)


def test_other_pictures_of_as_many_bytes_are_noticed(folder):
    """`prepare` wrote down a digest of what the records hold."""
    summary = folder / "data/colours/1.0.0/summary.json"
    summary.write_text(json.dumps({"contents": {"train": "aa", "validation": "bb"}}))
    _open(folder)  # an older version recorded less; what it lacked is written down
    recorded = json.loads((folder / "run/data.json").read_text())
    assert recorded["train"]["contents"] == "aa"
    summary.write_text(json.dumps({"contents": {"train": "ab", "validation": "bb"}}))
    with pytest.raises(UserError, match="'train' holds other pictures or labels"):
        _open(folder)


def test_another_vocabulary_of_the_same_size_is_noticed(tmp_path):
    path = tmp_path / "tokenizer.json"
    path.write_text('{"a": 0, "b": 1}')
    config = tiny_config(tmp_path)
    data = Data([], [], object(), {"train": {"examples": 1}})
    notes = run_data.checkpoint_notes(config, tmp_path, data)
    run_data.check_saved_labels(path, data.vocabulary, notes)
    path.write_text('{"b": 0, "a": 1}')
    with pytest.raises(UserError, match=r"tokenizer\.json is not the vocabulary .*: restore"):
        run_data.check_saved_labels(path, data.vocabulary, notes)
    run_data.check_saved_labels(path, data.vocabulary, {"data": {}})  # of an older version


def _config_file(folder):
    path = folder / "own.py"
    path.write_text(
        "from jaxtag.config import serialization\n"
        f"def get_config():\n    return serialization.load({str(folder / 'run')!r})\n"
    )
    return path


def test_a_run_without_fingerprint_goes_on(folder, caplog):
    (folder / "run/data.json").unlink()
    for path in (folder / "run/checkpoints").iterdir():
        manifest = json.loads((path / "jaxtag_manifest.json").read_text())
        del manifest["notes"]["data"], manifest["notes"]["labels"]
        body = {"files": manifest["files"], "notes": manifest["notes"]}
        body["crc"] = checkpoint_manifest._crc_of_body(body)
        (path / "jaxtag_manifest.json").write_text(json.dumps(body))
    _set_classes(folder, "red", "green")
    _open(folder)
    assert "another order" in caplog.text
    assert (folder / "run/data.json").exists()


def test_a_class_file_of_another_run_is_refused(folder):
    (folder / "run/classes.json").write_text('["red", "green"]')
    with pytest.raises(UserError, match=r"classes\.json holds other labels .*another order"):
        jaxtag.load(folder / "run")


def _records(*labels, field="label"):
    return [{"image": np.zeros((8, 8, 3), np.uint8), field: label} for label in labels]


def test_own_sources_are_matched_by_name(folder):
    split = "validation"
    run = folder / "run"
    named = jaxtag.api.evaluate(run, data={split: _records("red", "green", "green")})
    numbered = as_data_source(_records(0, 1, 1), class_names={"label": ["red", "green"]})
    assert jaxtag.api.evaluate(run, data={split: numbered}) == named
    with pytest.raises(UserError, match="without names, and the run knows names"):
        jaxtag.api.evaluate(run, data={split: _records(1, 0, 0)})
    unknown = as_data_source(_records(0), class_names={"label": ["blue"]})
    with pytest.raises(UserError, match="does not know: 'blue'"):
        jaxtag.api.evaluate(run, data={split: unknown})


def test_an_embedder_is_evaluated_on_classes_that_it_never_saw():
    config = Config(task=EmbedConfig(loss="proxy_anchor", embedding_dim=4))
    config.model.backbone = "squeezenet1_0"
    task = EmbedTask(config, LabelNames(("cat", "dog")))
    names = {"label": ["ant", "dog", "eel"]}
    source = as_data_source(_records(0, 1, 2), class_names=names)
    wider, matched = run_data.match_to_run(task, source)
    assert wider.label_names.names == ("cat", "dog", "ant", "eel")
    assert wider.model is task.model  # which has no output for each class
    assert [record["label"] for record in matched.iter_fields(["label"])] == [2, 1, 3]


def test_tags_that_a_source_lacks_are_unlabeled():
    labels = LabelNames(("a", "b", "c"))
    records = _records([0], [1, 0], field="tags")
    source = match_labels(as_data_source(records, class_names={"tags": ["c", "a"]}), "tags", labels)
    assert [r["tags"] for r in source.__getitems__([0, 1])] == [[2], [0, 2]]
    assert [r["unknown_tags"] for r in source.iter_fields(["tags"])] == [[1], [1]]
    assert source.class_names("tags") == ["a", "b", "c"]
    with pytest.raises(UserError, match="has tags that the run does not know: 'd'"):
        match_labels(as_data_source(records, class_names={"tags": ["a", "d"]}), "tags", labels)
    unnamed = as_data_source(records)
    assert match_labels(unnamed, "tags", labels, numbers_agree=True) is unnamed


def test_a_finished_run_appends_nothing(folder):
    def contents():
        return {
            path.name: path.read_bytes()
            for path in [folder / "run/metrics.jsonl", *(folder / "run/board").iterdir()]
        }

    before = contents()
    result = jaxtag.fit(serialization.load(folder / "run"), folder / "run")
    assert result.scores is not None and contents() == before


def test_a_work_directory_removed_under_a_run_is_told(folder):
    class Removing(Callback):
        def on_step(self, step, state, metrics):
            if step == 3:
                # At once: in the background a checkpoint's metrics may be written.
                (folder / "fresh").rename(folder / "removed")
                shutil.rmtree(folder / "removed", ignore_errors=True)

    config = serialization.load(folder / "run")
    with pytest.raises(
        UserError, match=r"fresh was removed or moved|fresh\S+ could not be saved: "
    ):
        jaxtag.fit(config, folder / "fresh", callbacks=[Removing()])


def test_two_runs_do_not_share_a_work_directory(folder):
    refusals = []

    class Starting(Callback):
        def on_evaluation(self, step, evaluation):
            with pytest.raises(UserError, match=r"--workdir=.*run is in use by process") as refused:
                jaxtag.fit(serialization.load(folder / "run"), folder / "run")
            refusals.append(str(refused.value))

    jaxtag.fit(serialization.load(folder / "run"), folder / "run", callbacks=[Starting()])
    assert refusals
    assert not (folder / "run/lock.json").exists()


def test_evaluation_json_holds_confusion_and_each_class(folder):
    done = call("evaluate", "--workdir=run")
    assert not {"per_class", "confusion"} & set(done.last)
    saved = json.loads((folder / "run/evaluation.json").read_text())
    counts = np.array(saved["confusion"]["counts"])
    assert saved["confusion"]["classes"] == ["green", "red"] and counts.sum() == 4
    assert saved["top1"] == np.trace(counts) / 4
    for number, name in enumerate(["green", "red"]):
        entry, right = saved["per_class"][name], counts[number, number]
        assert entry["images"] == counts[number].sum()
        assert entry["recall"] == right / max(counts[number].sum(), 1)
        assert entry["precision"] == right / max(counts[:, number].sum(), 1)


def test_several_data_sets_are_trained_on_by_weight(folder):
    config = serialization.load(folder / "run")
    config.data.shuffle, config.data.datasets = None, (("colours", 3.0), ("colours:1.0.0", 1.0))
    config = run_config.resolve_run_config(checks.check(config), folder / "mixed")
    data = run_data.open_data(config, folder / "mixed")
    assert len(data.train) == 16 and len(data.evaluation) == 4
    assert data.train.mixture_parts() == [(8, 3.0), (8, 1.0)]
    assert data.vocabulary.names == ("green", "red")
    batches = loop.training_batches(
        run_data.task_class(config)(config, data.vocabulary), data.train
    )
    iterator = batches()
    drawn = np.concatenate([next(iterator)["index"] for _ in range(50)])
    iterator.close()
    assert 0.6 < (drawn < 8).mean() < 0.9
    (folder / "mixed/checkpoints").mkdir()
    config.data.datasets = (("colours", 2.0), ("colours:1.0.0", 1.0))
    with pytest.raises(UserError, match=r"data\.datasets: trained with .*3\.0.*, now .*2\.0"):
        run_config.resolve_run_config(config, folder / "mixed")


def test_mixtures_refuse_orders_and_weights_that_make_no_sense(folder):
    config = serialization.load(folder / "run")
    config.data.datasets = (("colours", 1.0),)
    with pytest.raises(UserError, match=r"config\.data\.shuffle = 'stored': several"):
        checks.check(config)
    config.data.datasets = (("colours", 0.0),)
    with pytest.raises(UserError, match=r"the weight of colours is 0\.0, not above 0"):
        checks.check(config)
