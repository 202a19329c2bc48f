"""Measures few-shot accuracy: classification after k labeled images of each class.

  python -m jaxtag.few_shot --workdir=RUN --dataset=cifar10 [--shots=1,2,4,8,16] [--seeds=5]
  python -m jaxtag.few_shot --model=efficientnet_lite0 --dataset=cifar10
  python -m jaxtag.few_shot --model=resnet18 --weights=FILE --dataset=cifar10
  python -m jaxtag.few_shot --pixels=16 --dataset=cifar10

Features come from a run of jaxtag.train, from a backbone with pretrained weights, or are the pixels
(see jaxtag.index); they are computed once and kept in the user's cache. For each seed, k training
images a class are drawn; on them a linear probe is fitted (multinomial logistic regression) and
nearest neighbors vote, and both are scored on the whole test split. Several processes share the
images as they do in jaxtag.train. The last line is JSON: {k: {method: {"mean", "std",
"accuracies"}}}.
"""

import json
import sys
from typing import TYPE_CHECKING

import jax
import numpy as np
from absl import flags

from jaxtag import cli
from jaxtag.errors import UsageError

if TYPE_CHECKING:
    from jaxtag.inference.features import FeatureExtractor

FLAGS = flags.FLAGS


def define_flags() -> None:
    flags.DEFINE_string("workdir", None, "Extract features with a run of jaxtag.train.")
    flags.DEFINE_string("step", "newest", "Checkpoint of the run: newest, best, or its step.")
    flags.DEFINE_string(
        "model", None, "Extract features with a backbone of jaxtag.models.list_models()."
    )
    flags.DEFINE_string("weights", None, "Weights of --model, safetensors of any library.")
    flags.DEFINE_integer("pixels", None, "Use the image's pixels, resized to N x N, as features.")
    flags.DEFINE_string("dataset", None, "A prepared data set of classes.")
    flags.DEFINE_string("train_split", "train", "Split that the labeled images are drawn from.")
    flags.DEFINE_string("test_split", "test", "Split that is scored.")
    flags.DEFINE_string("data_dir", None, "Where data sets are kept.")
    flags.DEFINE_list("shots", ["1", "2", "4", "8", "16"], "Numbers of images of each class.")
    flags.DEFINE_integer("seeds", 5, "How many times the images are drawn.", 1)
    cli.define_process_flags()


def main(_: list[str]) -> None:
    from jaxtag.inference import features

    cli.require("dataset", ": a prepared data set of classes")
    shots = [int(text) if text.isdecimal() else 0 for text in FLAGS.shots]
    if not shots or min(shots) < 1:
        raise UsageError(f"--shots={','.join(FLAGS.shots)}: must be positive numbers")
    with cli.join_job():
        extractor = features.from_flags(
            FLAGS.workdir, FLAGS.step, FLAGS.model, FLAGS.weights, FLAGS.pixels
        )
        splits = (FLAGS.train_split, FLAGS.test_split)
        train, test = (_extract(extractor, split) for split in splits)
        if jax.process_index() == 0:
            _report(train, test, shots)


def _report(
    train: tuple[np.ndarray, np.ndarray], test: tuple[np.ndarray, np.ndarray], shots: list[int]
) -> None:
    """Prints the accuracies, given the vectors and classes of both splits."""
    from jaxtag.tag_index import few_shot

    accuracies = few_shot.evaluate(train, test, shots, FLAGS.seeds)
    summary = {}
    for k, methods in accuracies.items():
        summary[k] = {
            name: {"mean": np.mean(values), "std": np.std(values), "accuracies": values}
            for name, values in methods.items()
        }
        texts = (f"{name} {v['mean']:.3f} ± {v['std']:.3f}" for name, v in summary[k].items())
        print(f"{k} a class: {', '.join(texts)}", file=sys.stderr)
    print(json.dumps(summary))


def _extract(extractor: "FeatureExtractor", split: str) -> tuple[np.ndarray, np.ndarray]:
    """The vectors [N, D] and classes [N] of a split's readable images."""
    from jaxtag import datasets
    from jaxtag.data import sources
    from jaxtag.inference import feature_cache

    source = datasets.open_split(FLAGS.dataset, split, FLAGS.data_dir)
    source.class_names()  # raises UserError if there are none
    split_features = feature_cache.split_features(extractor, source)
    return split_features.vectors, sources.read_labels(source)[split_features.positions]


def run() -> None:
    cli.run(main, define_flags)


if __name__ == "__main__":
    run()
