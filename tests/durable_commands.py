"""The commands that write, small: how each is started, and what it leaves, to compare.

Used by the proofs that failing writes and kills lose nothing.
"""

import dataclasses
import hashlib
import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jobs
import numpy as np
import tensorstore
from forks import Ended, ForkServer
from PIL import Image
from tensorboardX.proto.event_pb2 import Event, SessionLog

from jaxtag import create_model
from jaxtag.data.sources import Source
from jaxtag.datasets import prepared
from jaxtag.tag_index import IndexStorage
from jaxtag.training import checkpoint_manifest
from jaxtag.weights import save

_TIMES = {"images_per_second", "seconds_per_step", "data_wait_fraction"}
_UNFINISHED = re.compile(
    r"orbax-checkpoint-tmp|\.deleting|\.preparing|\.replaced|vectors-.*partial"
)
_STRAY = re.compile(r"\.partial$|\.tmp$|^lock\.json$|\.lock$|^\..*\.settings$")


@dataclasses.dataclass(frozen=True)
class Inputs:
    """What the commands read: a configuration, a run, photos, an index of some, weights."""

    config: str
    run: Path
    photos: Path
    index: Path
    weights: Path


@dataclasses.dataclass(frozen=True)
class Command:
    """A command that writes into one folder.

    Attributes:
        argv: (inputs, folder) -> the command line.
        result: (folder) -> everything that it leaves there, but for times; comparable. Raises
            where a file that has its final name is not whole.
        prepare: (inputs, folder) -> None: puts into the folder what the command starts from.
        parts: (result after a failure, result of the unbroken run, result before) -> whether the
            first is one that a run that ended early may leave.
        processes: (command line) -> that of each of its processes.
        once: a call that has done its work is refused when it is made again.
    """

    argv: Callable[[Inputs, Path], list[str]]
    result: Callable[[Path], dict[str, Any]]
    prepare: Callable[[Inputs, Path], None] = lambda inputs, folder: None
    parts: Callable[[dict, dict, dict], bool] = lambda left, whole, before: _is_part(
        left, whole, before
    )
    once: bool = False
    processes: Callable[[list[str]], list[list[str]]] = lambda argv: [argv]


def _is_part(left: dict, whole: dict, before: dict) -> bool:
    """Each file is absent, as before, or as in the end."""
    return all(
        name in whole and value in (whole[name], before.get(name)) for name, value in left.items()
    )


# --- what they leave


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def files(folder: Path) -> dict[str, str]:
    """Digests of the files that have their final name, by path."""
    return {
        str(path.relative_to(folder)): _digest(path.read_bytes())
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not _STRAY.search(path.name)
    }


def arrays(checkpoint: Path) -> dict[str, str]:
    """Digests of the arrays of a checkpoint, as they are stored."""
    opened = tensorstore.KvStore.open({"driver": "ocdbt", "base": f"file://{checkpoint}/state/"})
    store = opened.result()
    return {key.decode(): _digest(store.read(key).result().value) for key in store.list().result()}


def metric_lines(workdir: Path) -> list[dict[str, Any]]:
    """The whole lines of metrics.jsonl, without times."""
    path = workdir / "metrics.jsonl"
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    lines = text.split("\n")[:-1]  # what has no line feed was cut off
    return [
        {name: value for name, value in json.loads(line).items() if name not in _TIMES}
        for line in lines
    ]


def board_points(workdir: Path) -> dict[str, dict[int, list[float]]]:
    """Tag -> step -> values of the scalars that TensorBoard shows, without times.

    As its reader does, a file is read up to the first event that was cut off, and a start of a
    session hides what earlier files have from its step on. A point of an evaluation that was made
    anew, since its line was missing, may be there twice.
    """
    points: dict[str, dict[int, list[float]]] = {}
    for path in sorted((workdir / "board").glob("events.*")):
        for event in _events(path.read_bytes()):
            if event.session_log.status == SessionLog.START:
                for tag, by_step in points.items():
                    points[tag] = {n: values for n, values in by_step.items() if n < event.step}
            for value in event.summary.value:
                if value.WhichOneof("value") == "simple_value" and (
                    value.tag.rpartition("/")[2] not in _TIMES
                ):
                    values = points.setdefault(value.tag, {}).setdefault(event.step, [])
                    if value.simple_value not in values:
                        values.append(value.simple_value)
    return {tag: by_step for tag, by_step in points.items() if by_step}


def _events(data: bytes) -> Iterator[Event]:
    while len(data) >= 12:
        size = int.from_bytes(data[:8], "little") + 16
        if len(data) < size:
            return
        yield Event.FromString(data[12 : size - 4])
        data = data[size:]


def _train_result(workdir: Path) -> dict[str, Any]:
    folder = workdir / "checkpoints"
    steps = [path for path in folder.glob("*") if path.name.isdecimal()]
    for path in steps:
        checkpoint_manifest.verify(path)
    own = {path.name: _digest(path.read_bytes()) for path in workdir.glob("*.*") if path.is_file()}
    own = {name: digest for name, digest in own.items() if not _STRAY.search(name)}
    for name in ("metrics.jsonl", "goodput.json"):  # they hold times
        own.pop(name, None)
    return {
        **own,
        "metrics": metric_lines(workdir),
        "board": board_points(workdir),
        "checkpoints": {path.name: arrays(path) for path in sorted(steps)},
    }


_LINES = ("metrics", "board", "checkpoints")


def _train_parts(left: dict, whole: dict, before: dict) -> bool:
    """Checkpoints and lines may be earlier ones, and lines may come again after the last one."""
    compared = {n: v for n, v in left.items() if n not in _LINES}
    steps = left["checkpoints"]
    agree = all(
        steps[step] == whole["checkpoints"][step] for step in steps if step in whole["checkpoints"]
    )
    lines = whole["metrics"][: len(left["metrics"])] == left["metrics"]
    return agree and lines and _is_part(compared, whole, before)


def records(source: Source) -> list[tuple[tuple[str, str], ...]]:
    """Every record of a split, comparable."""
    rows = source.__getitems__(range(len(source)))
    return [tuple((name, repr(value)) for name, value in sorted(row.items())) for row in rows]


def _prepare_result(data_dir: Path) -> dict[str, Any]:
    final = data_dir / "own" / "1.0.0"
    if not final.exists():
        return {}
    splits = json.loads((final / "summary.json").read_text(encoding="utf-8"))["splits"]
    result: dict[str, Any] = {
        name: records(prepared.open_split("own", name, str(data_dir))) for name in splits
    }
    for name in ("summary.json", "ledger.jsonl"):
        result[name] = _digest((final / name).read_bytes())
    result["records"] = sorted(path.name for path in final.glob("*.array_record*"))
    return result


def _index_result(folder: Path) -> dict[str, Any]:
    """Images, their tags and vectors, and nothing that no line of the journal names."""
    if not (folder / "manifest.json").exists():
        return {}
    storage = IndexStorage(folder)
    vectors = [row for part in storage.vectors() for row in part]
    images = {
        entry.file: (entry.tags, vectors[row].tobytes())
        for row, entry in enumerate(storage.entries)
        if entry
    }
    return {"images": images, "tags": storage.tag_names, "of": storage.description}


def _index_parts(left: dict, whole: dict, before: dict) -> bool:
    return left in ({}, before, whole, {**whole, "images": {}, "tags": []})


# --- what they start from


def _copy_run(inputs: Inputs, folder: Path) -> None:
    shutil.copytree(inputs.run, folder, dirs_exist_ok=True)


def _copy_photos(inputs: Inputs, folder: Path) -> None:
    shutil.copytree(inputs.photos, folder / "photos")


def _copy_index(inputs: Inputs, folder: Path) -> None:
    shutil.copytree(inputs.index, folder, dirs_exist_ok=True)


# --- how they are called


def _photos(inputs: Inputs, first: int = 0) -> list[str]:
    return sorted(map(str, inputs.photos.glob("*.png")))[first:]


def _train(inputs: Inputs, folder: Path) -> list[str]:
    return ["train", f"--config={inputs.config}", f"--workdir={folder}"]


def _prepare(inputs: Inputs, folder: Path) -> list[str]:
    return ["prepare", "--dataset=own", f"--source={inputs.photos}", f"--data_dir={folder}"]


def _annotate(inputs: Inputs, folder: Path) -> list[str]:
    outputs = {"output": "lines.jsonl", "csv": "table.csv", "gallery": "gallery"}
    flags = [f"--{flag}={folder / name}" for flag, name in outputs.items()]
    models = [f"--workdir={inputs.run}", f"--index={inputs.index}"]
    return ["annotate", *models, *flags, "--sidecars", "--min_score=0", f"{folder}/photos"]


def _index_build(inputs: Inputs, folder: Path) -> list[str]:
    table = f"--tags={inputs.photos}/tags.csv"
    return ["index", "build", f"--index={folder}", "--pixels=4", table]


def _index_add(inputs: Inputs, folder: Path) -> list[str]:
    return ["index", "add", f"--index={folder}", "--tag=new", *_photos(inputs)]


def _index_remove(inputs: Inputs, folder: Path) -> list[str]:
    return ["index", "remove", f"--index={folder}", _photos(inputs)[0]]


def _index_compact(inputs: Inputs, folder: Path) -> list[str]:
    return ["index", "compact", f"--index={folder}"]


def _export(inputs: Inputs, folder: Path) -> list[str]:
    source = ["weights", "export", f"--source={inputs.weights}", "--library=torchvision"]
    return [*source, f"--output={folder}/exported.safetensors"]


def _evaluate(inputs: Inputs, folder: Path) -> list[str]:
    return ["evaluate", f"--workdir={folder}", f"--predictions={folder}/predictions.jsonl"]


def two_processes(argv: list[str]) -> list[list[str]]:
    """The command lines of a job of two processes."""
    job = [f"--coordinator_address=localhost:{jobs.free_port()}", "--num_processes=2"]
    return [[*argv, *job, f"--process_id={index}"] for index in range(2)]


COMMANDS = {
    "train": Command(_train, _train_result, parts=_train_parts),
    "prepare": Command(_prepare, _prepare_result),
    "annotate": Command(_annotate, files, _copy_photos),
    "index build": Command(_index_build, _index_result, parts=_index_parts, once=True),
    "index add": Command(_index_add, _index_result, _copy_index, _index_parts),
    "index remove": Command(_index_remove, _index_result, _copy_index, _index_parts, once=True),
    "index compact": Command(_index_compact, _index_result, _copy_index, _index_parts),
    "weights export": Command(_export, files),
    "evaluate": Command(_evaluate, files, _copy_run),
}


# --- trials


# Of a tagger that is quick to trace.
_CONFIG = """
from jaxtag.config.schema import Config, DataConfig, EvaluationConfig, ModelConfig, OptimizerConfig
from jaxtag.tasks.tag.config import TagConfig

def get_config():
    return Config(
        task=TagConfig(),
        seed=3,
        batch_size=4,
        total_steps=4,
        log_every=1,
        evaluate_every=4,
        checkpoint_every=2,
        data=DataConfig(
            dataset="own",
            data_dir={data_dir!r},
            image_size=16,
            flip=True,
            crop_scale=(0.5, 1.0),
            num_threads=1,
        ),
        model=ModelConfig(backbone="small_classifier:SmallClassifier"),
        optimizer=OptimizerConfig(learning_rate=1e-2, warmup_steps=1, ema_decay=0.9),
        evaluation=EvaluationConfig(batch_size=4, num_samples_shown=2),
    )
"""


def make_inputs(server: ForkServer, folder: Path, *, trained: bool = True) -> Inputs:
    """Makes photos and an index of some; and, if `trained`, a data set, a run and weights."""
    config, data = folder / "own.py", folder / "data"
    config.write_text(_CONFIG.format(data_dir=str(data)), encoding="utf-8")
    weights = folder / "squeezenet1_1.safetensors"
    inputs = Inputs(str(config), folder / "run", folder / "photos", folder / "index", weights)
    _make_photos(inputs.photos)
    build = ["index", "build", f"--index={inputs.index}", "--pixels=4", "--tag=old,older"]
    calls = [[*build, *_photos(inputs)[:4]]]
    if trained:
        _save_weights(weights)
        calls += [_prepare(inputs, data), _train(inputs, inputs.run)]
    for argv in calls:
        ended = server.run(argv, watched=folder)
        assert ended.status == 0, ended.err
    return inputs


def _save_weights(path: Path) -> None:
    model = create_model("squeezenet1_1", num_classes=3)
    shapes = jax.eval_shape(model.init, jax.random.key(0), np.zeros((1, 64, 64, 3), np.float32))
    variables = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    notes = {"model": "squeezenet1_1", "fields": {"num_classes": 3}}
    save(path, model, variables, notes=notes)


def _make_photos(folder: Path, count: int = 9) -> Path:
    """Noisy pictures of three colours, `tags.csv` of them, and one that is no picture."""
    colors = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (40, 60, 220)}
    folder.mkdir(parents=True, exist_ok=True)
    lines = ["file,tags,split"]
    for number in range(count):
        name, color = list(colors.items())[number % 3]
        pixels = np.random.RandomState(number).normal(color, 20, (20, 24, 3))
        image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
        image.save(folder / f"{name}{number}.png")
        split = "validation" if number >= count - 3 else "train"
        lines.append(f"{name}{number}.png,{name};number {number % 2},{split}")
    (folder / "tags.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


class Trials:
    """Runs of one command in folders of their own, against an unbroken run.

    Attributes:
        command: what runs.
        unbroken: how the run ended that met no fault.
        before: what is in the folder before it, as its `result`.
        whole: what is in the folder after it.
    """

    def __init__(self, server: ForkServer, command: Command, inputs: Inputs, folder: Path):
        self.command = command
        self._server, self._inputs, self._folder = server, inputs, folder
        target = self.start()
        self.before = command.result(target)
        self.unbroken = self.run(target)
        assert self.unbroken.status == 0, self.unbroken.err
        self.whole = command.result(target)
        shutil.rmtree(target)

    def start(self) -> Path:
        """A new folder with what the command starts from."""
        target = self._folder / "target"  # one name for all: outputs hold it
        target.mkdir()
        self.command.prepare(self._inputs, target)
        return target

    def run(self, target: Path, **how: Any) -> Ended:
        """Runs the command; `how` as `ForkServer.run` takes it."""
        argv = self.command.argv(self._inputs, target)
        return self._server.run(*self.command.processes(argv), watched=target, **how)

    def finish(self, target: Path, left: dict[str, Any] | None) -> list[str]:
        """Runs the command once more, and removes the folder.

        Args:
            left: the result before, None where it cannot be read.

        Returns:
            What is wrong with the end, or with what there is then; in words.
        """
        done = self.command.once and left == self.whole
        ended = self.run(target)
        wrong = []
        if not set(ended.statuses) <= ({0, 1} if done else {0}) or "Traceback" in ended.err:
            wrong.append(f"again: statuses {ended.statuses}\n{ended.err}")
        else:
            result = self.command.result(target)
            if result != self.whole:
                wrong.append(f"again, other output: {difference(result, self.whole)}")
        if strays := [path.name for path in target.rglob("*") if _UNFINISHED.search(path.name)]:
            wrong.append(f"again, left over: {strays}")
        shutil.rmtree(target)
        return wrong


def difference(left: object, right: object, name: str = "") -> str:
    """Where two results differ first."""
    if isinstance(left, dict) and isinstance(right, dict):
        for key in sorted({*left, *right}):
            if left.get(key) != right.get(key):
                return difference(left.get(key), right.get(key), f"{name}/{key}")
    return f"{name}: {str(left)[:300]} instead of {str(right)[:300]}"
