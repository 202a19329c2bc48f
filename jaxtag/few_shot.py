"""How far a few labelled pictures go: accuracy after k pictures of each class.

  python -m jaxtag.few_shot --workdir=RUN --dataset=cifar10 [--shots=1,2,4,8,16] [--seeds=5]
  python -m jaxtag.few_shot --model=resnet18 --weights=FILE --dataset=cifar10
  python -m jaxtag.few_shot --pixels=16 --dataset=cifar10

Pictures become vectors by what a run of jaxtag.train has learnt, by a backbone with given weights,
or by their pixels (see jaxtag.index). On k training pictures a class, drawn anew for each seed, a
linear probe is fitted (multinomial logistic regression) and neighbours vote; both are scored on the
whole test split. The last line is JSON: {k: {method: {"mean", "std", "accuracies"}}}.
"""

import json
import sys
from typing import Any

import numpy as np
from absl import flags

from jaxtag import cli
from jaxtag.errors import UsageError

FLAGS = flags.FLAGS


def define_flags() -> None:
    flags.DEFINE_string("workdir", None, "Vectors by a run of jaxtag.train.")
    flags.DEFINE_string("step", "newest", "Checkpoint of the run: newest, best, or its step.")
    flags.DEFINE_string("model", None, "Vectors by a backbone of jaxtag.models.list_models().")
    flags.DEFINE_string("weights", None, "Weights of --model, safetensors of any library.")
    flags.DEFINE_integer("pixels", None, "Vectors are the pictures at so many pixels a side.")
    flags.DEFINE_string("dataset", None, "A prepared data set of classes.")
    flags.DEFINE_string("train_split", "train", "Split that pictures are drawn from.")
    flags.DEFINE_string("test_split", "test", "Split that is scored.")
    flags.DEFINE_string("data_dir", None, "Where data sets are kept.")
    flags.DEFINE_list("shots", ["1", "2", "4", "8", "16"], "Pictures of each class.")
    flags.DEFINE_integer("seeds", 5, "How often they are drawn.", 1)


def main(_: list[str]) -> None:
    from jaxtag.inference import features
    from jaxtag.tag_index import few_shot

    cli.require("dataset", ": a prepared data set of classes")
    shots = [int(word) if word.isdecimal() else 0 for word in FLAGS.shots]
    if not shots or min(shots) < 1:
        raise UsageError(f"--shots={','.join(FLAGS.shots)}: must be positive numbers")
    maker = features.from_flags(
        FLAGS.workdir,
        FLAGS.step,
        FLAGS.model,
        FLAGS.weights,
        FLAGS.pixels,
    )
    training, test = (_labelled(maker, split) for split in (FLAGS.train_split, FLAGS.test_split))
    found = few_shot.evaluate(training, test, shots, FLAGS.seeds)
    summary = {}
    for k, methods in found.items():
        summary[k] = {
            name: {"mean": np.mean(values), "std": np.std(values), "accuracies": values}
            for name, values in methods.items()
        }
        told = (f"{name} {v['mean']:.3f} ± {v['std']:.3f}" for name, v in summary[k].items())
        print(f"{k} a class: {', '.join(told)}", file=sys.stderr)
    print(json.dumps(summary))


def _labelled(maker: Any, split: str) -> tuple[np.ndarray, np.ndarray]:
    """The vectors and classes of a split's readable pictures."""
    from jaxtag.data import sources

    source = sources.open_split(FLAGS.dataset, split, FLAGS.data_dir)
    source.class_names()  # tells where there are none
    parts = list(maker.of_source(source))
    places = np.concatenate([part.positions for part in parts])
    bad = sum(len(part.errors) for part in parts)
    if bad:
        print(f"left out of {split}: {bad} damaged pictures", file=sys.stderr)
    return np.concatenate([part.vectors for part in parts]), sources.read_labels(source)[places]


def run() -> None:
    cli.run(main, define_flags)


if __name__ == "__main__":
    run()
