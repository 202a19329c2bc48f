"""Two captioners that learn nothing, on Flickr8k's dev part: what a model must beat.

    python benchmarks/flickr8k_baselines.py [--data_dir=DIR] [--workdir=RUN …]

`constant` repeats one training caption (the best of 300 by CIDEr on 200 dev pictures); `nearest`
takes the first caption of the training picture that is nearest by its 16x16 pixels. With work
directories of runs, their evaluation.json (from jaxtag.evaluate) goes into the same table.
"""

import json
import random
from pathlib import Path

import numpy as np
from absl import app, flags, logging

from jaxtag.data import pipeline, sources, transforms
from jaxtag.datasets import prepared
from jaxtag.tasks import evaluator
from jaxtag.tasks.caption.evaluation import caption_scores

_DATA_DIR = flags.DEFINE_string("data_dir", None, "tfds's root folder.")
_WORKDIRS = flags.DEFINE_multi_string("workdir", [], "Runs of flickr8k_caption, evaluated.")


def thumbnails(source: sources.Source) -> np.ndarray:
    """float32 [N, 768]: the pictures squashed to 16x16."""
    example = pipeline.ExampleSpec(transforms.Resize(16))
    rows = [
        batch["image"][batch["mask"] > 0]
        for batch in pipeline.eval_batches(source, example=example, batch_size=100)
    ]
    return np.concatenate(rows).reshape(len(source), -1).astype(np.float32)


def main(_: list[str]) -> None:
    logging.set_verbosity(logging.WARNING)  # tfds tells of each look at a data set
    training = prepared.open_split("flickr8k_captions", "train", _DATA_DIR.value)
    held_out = prepared.open_split("flickr8k_captions", "validation", _DATA_DIR.value)
    references = dict(enumerate(sources.iter_captions(held_out)))
    texts = list(sources.iter_captions(training))

    some = {index: references[index] for index in range(200)}
    candidates = random.Random(0).sample([text for group in texts for text in group], 300)
    scores = [
        caption_scores(dict.fromkeys(some, text), some, held_out)["CIDEr"] for text in candidates
    ]
    best = candidates[int(np.argmax(scores))]

    train_pixels, pixels = thumbnails(training), thumbnails(held_out)
    distances = (train_pixels**2).sum(
        1
    ) - 2 * pixels @ train_pixels.T  # but for a constant of each row
    nearest = {index: texts[row][0] for index, row in enumerate(distances.argmin(1))}

    rows = {
        f"constant: {best!r}": caption_scores(
            dict.fromkeys(references, best), references, held_out
        ),
        "nearest by 16x16 pixels": caption_scores(nearest, references, held_out),
    }
    for workdir in map(Path, _WORKDIRS.value):
        evaluation = json.loads((workdir / "evaluation.json").read_text(encoding="utf-8"))
        rows[workdir.name] = {
            name: value for name, value in evaluation.items() if name in rows[next(iter(rows))]
        }
    print(evaluator.table(rows))


if __name__ == "__main__":
    app.run(main)
