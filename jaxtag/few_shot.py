"""Measures few-shot accuracy: classification after k labeled images of each class.

  python -m jaxtag.few_shot --workdir=RUN --dataset=cifar10 [--shots=1,2,4,8,16] [--seeds=5]
  python -m jaxtag.few_shot --model=efficientnet_lite0 --dataset=cifar10
  python -m jaxtag.few_shot --model=resnet18 --weights=FILE --dataset=cifar10
  python -m jaxtag.few_shot --pixels=16 --dataset=cifar10

Features come from a run of jaxtag.train, from a backbone with pretrained weights, or are the pixels
(see jaxtag.index); they are computed once and kept in the user's cache, of the training images that
are drawn and of all test images. For each seed, k training images a class are drawn; on them a
linear probe is fitted (multinomial logistic regression) and nearest neighbors vote, and both are
scored on the whole test split. Several processes share the images as they do in jaxtag.train. The
last line is JSON: {k: {method: {"mean", "std", "accuracies"}}}.
"""

import json
import sys
from typing import TYPE_CHECKING

import jax
import numpy as np
from absl import flags

from jaxtag import cli
from jaxtag.errors import UsageError, UserError

if TYPE_CHECKING:
    from jaxtag.inference.features import FeatureExtractor

FLAGS = flags.FLAGS


def define_flags() -> None:
    cli.define_feature_flags()
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
        extractor = features.from_flags(**cli.feature_flags())
        accuracies = _evaluate(extractor, sorted(shots))
        if jax.process_index() == 0:
            _report(accuracies)


def _evaluate(extractor: "FeatureExtractor", shots: list[int]) -> dict[int, dict[str, list[float]]]:
    """The accuracies of few_shot.evaluate, with vectors of the drawn training images alone."""
    from jaxtag import datasets
    from jaxtag.data import sources
    from jaxtag.data.selection import SelectedRecords
    from jaxtag.inference import feature_cache
    from jaxtag.tag_index import few_shot

    splits = (FLAGS.train_split, FLAGS.test_split)
    train, test = (datasets.open_split(FLAGS.dataset, split, FLAGS.data_dir) for split in splits)
    num_classes = len(train.class_names())  # raises UserError if there are none
    samples = few_shot.draw(sources.read_labels(train), num_classes, shots[-1], FLAGS.seeds)
    drawn, positions = np.unique(samples, return_inverse=True)
    features = feature_cache.split_features(extractor, SelectedRecords(train, drawn))
    if len(features.vectors) < len(drawn):
        raise UserError(
            f"{train.name}: some of the drawn images are damaged: prepare the data set again"
        )
    held_out = feature_cache.split_features(extractor, test)
    labels = sources.read_labels(test)[held_out.positions]
    return few_shot.evaluate_samples(
        features.vectors, positions.reshape(samples.shape), (held_out.vectors, labels), shots
    )


def _report(accuracies: dict[int, dict[str, list[float]]]) -> None:
    """Prints the accuracies."""
    summary = {}
    for k, methods in accuracies.items():
        summary[k] = {
            name: {"mean": np.mean(values), "std": np.std(values), "accuracies": values}
            for name, values in methods.items()
        }
        texts = (f"{name} {v['mean']:.3f} ± {v['std']:.3f}" for name, v in summary[k].items())
        print(f"{k} a class: {', '.join(texts)}", file=sys.stderr)
    print(json.dumps(summary))


def run() -> None:
    cli.run(main, define_flags)


if __name__ == "__main__":
    run()
