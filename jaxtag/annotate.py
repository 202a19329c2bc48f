"""Captions or tags pictures: files, folders, patterns.

    python -m jaxtag.annotate --workdir=runs/coco --output=captions.jsonl photos/ 'more/*.png'

Writes a line for each picture, in the order given. A captioner says {"file": …, "caption": …,
"score": …}; the score is the caption's log-probability, with beam search divided by its length
penalty. A classifier says {"file": …, "tags": [{"tag": …, "score": …}, …]}: the likeliest classes
and their probabilities. A tagger says so of the tags whose calibrated scores reach a threshold,
and at least of the likeliest one. An embedder says {"file": …, "embedding": […]}, a vector of
length 1. A picture that cannot be read gets {"file": …, "error": …}, and the run goes on. The
output appears when all is done; until then lines are in OUTPUT.partial.
"""

import contextlib
import errno
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import flags, logging
from tqdm import tqdm

from jaxtag import commands, config_flag
from jaxtag import config as configuration
from jaxtag.data import files, pipeline
from jaxtag.errors import UsageError, UserError
from jaxtag.evaluation import captions, tags
from jaxtag.parallel import mesh as meshes
from jaxtag.parallel import runtime
from jaxtag.tasks import TASKS
from jaxtag.tasks.tag_decisions import Decisions
from jaxtag.training import trained

_TAGS = 5  # likeliest classes that are told
_MOST_TAGS = 30  # of a picture, by a tagger

_CONFIG = config_flag.define()
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of a run of jaxtag.train.")
_OUTPUT = flags.DEFINE_string("output", None, "File to write, JSON lines.")
_STEP = flags.DEFINE_string("step", "newest", "Checkpoint: newest, best, or its step.")


def main(paths: list[str]) -> None:
    if not (_WORKDIR.value and _OUTPUT.value and paths):
        raise UsageError("usage: jaxtag.annotate --workdir=DIR --output=FILE.jsonl PATH…")
    workdir, output = Path(_WORKDIR.value), Path(_OUTPUT.value)
    config = configuration.check(_CONFIG.value or configuration.load(workdir))
    # What an earlier run wrote may lie among the pictures.
    own = {os.path.realpath(path) for path in (output, _partial(output))}
    names = [name for name in files.list_files(paths) if os.path.realpath(name) not in own]
    if config.compilation_cache:
        runtime.use_compilation_cache()
    model = trained.load(workdir, config, _STEP.value)
    found = annotate(model, names)
    bad, lines = 0, _Lines(output)
    with tqdm(total=len(names), unit="picture", disable=not sys.stderr.isatty()) as bar:
        for line in found:
            lines.add(line)
            bad += "error" in line
            bar.update()
    lines.finish()
    print(f"{len(names) - bad} pictures annotated, {bad} could not be read: {output}")


def annotate(model: trained.Trained, names: list[str]) -> Iterator[dict[str, Any]]:
    """A line for each file, in order; memory does not grow with their number.

    Raises:
      UsageError: at once, where the settings of decoding do not fit the model.
    """
    config = model.config
    describe = _DESCRIBERS[config.task](model)
    shards = model.mesh.shape["data"]
    size = min(config.evaluation.batch_size, len(names))
    size = -(-size // shards) * shards  # a whole number of rows for each device
    batches = pipeline.file_batches(
        names,
        image=TASKS[config.task].example(config, model.vocabulary, train=False).image,
        batch_size=size,
        workers=config.data.workers,
        threads=config.data.threads,
    )
    return _described(model, describe, batches)


# (batch on the devices, random key) → what is said of each row
Describer = Callable[[dict[str, jax.Array], jax.Array], list[dict[str, Any]]]


def _described(
    model: trained.Trained, describe: Describer, batches: pipeline.BatchIterator
) -> Iterator[dict[str, Any]]:
    key = jax.random.key(model.config.seed)
    for number, batch in enumerate(batches):
        where, errors = batch.pop("file"), batch.pop("error")
        arrays = meshes.to_devices(batch, model.mesh)
        found = describe(arrays, jax.random.fold_in(key, number))
        for row in np.flatnonzero(batch["index"] >= 0):
            if errors[row]:
                yield {"file": where[row], "error": errors[row]}
            else:
                yield {"file": where[row], **found[row]}
    batches.close()


def _captions(model: trained.Trained) -> Describer:
    generate = captions.caption_generator(model.task, model.config, model.vocabulary)

    def describe(batch: dict[str, jax.Array], key: jax.Array) -> list[dict[str, Any]]:
        found = jax.device_get(generate(model.variables, batch, key))
        texts = model.vocabulary.decode_batch(found["tokens"])
        scores = [round(float(score), 4) for score in found["scores"]]
        return [{"caption": t, "score": s} for t, s in zip(texts, scores, strict=True)]

    return describe


def _classes(model: trained.Trained) -> Describer:
    names = model.vocabulary.names
    predict = jax.jit(model.task.predict)

    def describe(batch: dict[str, jax.Array], _: jax.Array) -> list[dict[str, Any]]:
        rows = []
        for chances in jax.device_get(predict(model.variables, batch)):
            order = np.argsort(-chances, kind="stable")[:_TAGS]
            tags = [{"tag": names[i], "score": round(float(chances[i]), 4)} for i in order]
            rows.append({"tags": tags})
        return rows

    return describe


def _any_tags(model: trained.Trained) -> Describer:
    names, predict = model.vocabulary.names, jax.jit(model.task.predict)
    decisions = model.task.decisions
    if decisions is None:
        logging.warning(
            "no thresholds were chosen for step %d, 0.5 is taken: jaxtag.evaluate chooses them",
            model.step,
        )
        decisions = Decisions.plain(len(names))

    def describe(batch: dict[str, jax.Array], _: jax.Array) -> list[dict[str, Any]]:
        rows = []
        for scores in jax.device_get(predict(model.variables, batch)):
            given = tags.given_tags(scores, decisions, _MOST_TAGS)
            found = [{"tag": names[i], "score": round(float(scores[i]), 4)} for i in given]
            rows.append({"tags": found})
        return rows

    return describe


def _embeddings(model: trained.Trained) -> Describer:
    embed = jax.jit(model.task.embed)

    def describe(batch: dict[str, jax.Array], _: jax.Array) -> list[dict[str, Any]]:
        vectors = jax.device_get(embed(model.variables, batch["image"]))
        return [{"embedding": [round(float(x), 6) for x in vector]} for vector in vectors]

    return describe


_DESCRIBERS = {
    "caption": _captions,
    "classify": _classes,
    "embed": _embeddings,
    "tag": _any_tags,
}


class _Lines:
    """JSON lines in OUTPUT.partial, which takes the name OUTPUT when all are written."""

    def __init__(self, output: Path):
        self._output = output
        with self._told():
            if output.is_dir():
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
            # Python holds a byte of a file's name that is not UTF-8 as half of a surrogate pair.
            # backslashreplace spells that as \udcXX, which in JSON means the very same.
            self._file = _partial(output).open(
                "w", buffering=1, encoding="utf-8", errors="backslashreplace"
            )

    def add(self, line: dict[str, Any]) -> None:
        with self._told():
            self._file.write(json.dumps(line, ensure_ascii=False) + "\n")

    def finish(self) -> None:
        with self._told():
            self._file.close()
            _partial(self._output).replace(self._output)

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """A full disk, say, is something that the user can put right."""
        try:
            yield
        except OSError as error:
            message = f"--output={self._output} cannot be written: {error.strerror}"
            raise UserError(message) from error


def _partial(output: Path) -> Path:
    return Path(f"{output}.partial")


if __name__ == "__main__":
    commands.run(main, positional=True)
