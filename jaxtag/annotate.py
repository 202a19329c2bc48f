"""Captions pictures: files, folders, patterns.

    python -m jaxtag.annotate --workdir=runs/coco --output=captions.jsonl photos/ 'more/*.png'

Writes a line for each picture, {"file": …, "caption": …, "score": …}, in the order given; a
picture that cannot be read gets {"file": …, "error": …}, and the run goes on. The score is the
caption's log-probability, with beam search divided by its length penalty. The output appears
when all is done; until then lines are in OUTPUT.partial.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import flags
from tqdm import tqdm

from jaxtag import commands, config_flag
from jaxtag import config as configuration
from jaxtag.data import crops, files, pipeline
from jaxtag.errors import UsageError, UserError
from jaxtag.evaluation import captions
from jaxtag.parallel import mesh as meshes
from jaxtag.parallel import runtime
from jaxtag.training import trained

_CONFIG = config_flag.define()
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of a run of jaxtag.train.")
_OUTPUT = flags.DEFINE_string("output", None, "File to write, JSON lines.")
_STEP = flags.DEFINE_string("step", "newest", "Checkpoint: newest, best, or its step.")


def main(paths: list[str]) -> None:
    if not (_WORKDIR.value and _OUTPUT.value and paths):
        raise UsageError("usage: jaxtag.annotate --workdir=DIR --output=FILE.jsonl PATH…")
    workdir, output = Path(_WORKDIR.value), Path(_OUTPUT.value)
    config = configuration.check(_CONFIG.value or configuration.load(workdir))
    names = files.list_files(paths)
    partial = output.with_name(output.name + ".partial")
    try:
        file = partial.open("w", encoding="utf-8")
    except OSError as error:
        raise UserError(f"--output={output} cannot be written: {error.strerror}") from error
    if config.compilation_cache:
        runtime.use_compilation_cache()
    model = trained.load(workdir, config, _STEP.value)
    bad = 0
    with file, tqdm(total=len(names), unit="picture", disable=not sys.stderr.isatty()) as bar:
        for line in annotate(model, names):
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
            bad += "error" in line
            bar.update()
    partial.replace(output)
    print(f"{len(names) - bad} pictures annotated, {bad} could not be read: {output}")


def annotate(model: trained.Trained, names: list[str]) -> Iterator[dict[str, Any]]:
    """A line for each file, in order; memory does not grow with their number."""
    config = model.config
    generate = captions.caption_generator(model.task, config)
    shards = model.mesh.shape["data"]
    size = min(config.evaluation.batch_size, len(names))
    size = -(-size // shards) * shards  # a whole number of rows for each device
    batches = pipeline.file_batches(
        names,
        image=crops.Squash(config.data.image_size),
        batch_size=size,
        workers=config.data.workers,
        threads=config.data.threads,
    )
    key = jax.random.key(config.seed)
    for number, batch in enumerate(batches):
        where, errors = batch.pop("file"), batch.pop("error")
        arrays = meshes.to_devices(batch, model.mesh)
        found = jax.device_get(generate(model.variables, arrays, jax.random.fold_in(key, number)))
        texts = model.tokenizer.decode_batch(found["tokens"])
        for row in np.flatnonzero(batch["index"] >= 0):
            if errors[row]:
                yield {"file": where[row], "error": errors[row]}
            else:
                score = round(float(found["scores"][row]), 4)
                yield {"file": where[row], "caption": texts[row], "score": score}
    batches.close()


if __name__ == "__main__":
    commands.run(main, positional=True)
