"""Thresholds of tags chosen on one half of Corel-5K's validation part and judged on the other.

    python -m jaxtag.prepare --dataset=corel5k --source=COREL5K --data_dir=DATA
    python benchmarks/tag_thresholds.py --data_dir=DATA --model=squeezenet1_1 --weights=FILE
    python benchmarks/tag_thresholds.py --data_dir=DATA --pixels=12

A ridge regression from frozen features to the tags makes the logits; the halves are drawn 20 times.
"""

import argparse
from collections.abc import Callable

import numpy as np

from jaxtag.datasets.prepared import open_split
from jaxtag.inference import features
from jaxtag.metrics import multilabel
from jaxtag.tasks.tag import threshold_selection
from jaxtag.tasks.tag.calibration import TagCalibration, calibrated_scores, fit_calibration

Thresholds = Callable[[np.ndarray, np.ndarray], np.ndarray]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data_dir", required=True, help="where corel5k was prepared")
    parser.add_argument("--model", help="a backbone, of which --weights are")
    parser.add_argument("--weights", help="safetensors")
    parser.add_argument("--pixels", type=int, help="instead: the images themselves, at this size")
    parser.add_argument("--ridge", type=float, default=3000.0, help="penalty of the regression")
    parser.add_argument("--halvings", type=int, default=20)
    args = parser.parse_args()
    extractor = features.from_flags(None, "newest", args.model, args.weights, args.pixels)
    train, validation = (read(args.data_dir, split, extractor) for split in ("train", "validation"))
    logits, tags = ridge(*train, validation[0], args.ridge), validation[1]
    precisions = multilabel.average_precisions(logits, tags, np.ones_like(tags))
    print(f"{len(tags)} images, mAP {np.nanmean(precisions):.3f}")
    results = {name: [] for name in METHODS}
    for seed in range(args.halvings):
        order = np.random.RandomState(seed).permutation(len(tags))
        chosen_on, judged_on = np.array_split(order, 2)
        for name, scores in judge(logits, tags, chosen_on, judged_on).items():
            results[name].append(scores)
    report({name: np.array(scores) for name, scores in results.items()})


def read(data_dir: str, split: str, extractor: features.FeatureExtractor) -> list[np.ndarray]:
    """[features [N, D], tags bool [N, T]] of a split."""
    source = open_split("corel5k", split, data_dir)
    vectors = np.concatenate([batch.vectors for batch in extractor.of_source(source)])
    tags = np.zeros((len(source), len(source.class_names("tags"))), bool)
    for row, record in zip(tags, source.__getitems__(list(range(len(source)))), strict=True):
        row[record["tags"]] = True
    return [vectors.astype(np.float64), tags]


def ridge(x: np.ndarray, tags: np.ndarray, queries: np.ndarray, penalty: float) -> np.ndarray:
    """Logits [M, T] of `queries` [M, D]."""
    mean, scale, frequency = x.mean(0), x.std(0) + 1e-6, tags.mean(0)
    x, queries = (x - mean) / scale, (queries - mean) / scale
    weights = np.linalg.solve(x.T @ x + penalty * np.eye(x.shape[1]), x.T @ (tags - frequency))
    return queries @ weights + frequency


def of_their_own(min_positives: int) -> Thresholds:
    """The best threshold of each tag that so many images have; the common one for the others."""

    def fit(scores: np.ndarray, tags: np.ndarray) -> np.ndarray:
        thresholds = common(scores, tags)
        for tag in np.flatnonzero(tags.sum(0) >= min_positives):
            column = slice(tag, tag + 1)
            thresholds[tag] = common(scores[:, column], tags[:, column])[0]
        return thresholds

    return fit


def common(scores: np.ndarray, tags: np.ndarray) -> np.ndarray:
    thresholds, folds = threshold_selection.count(scores, tags, np.ones_like(tags))
    total = sum(folds[1:], folds[0])
    return thresholds[threshold_selection.choose(total, np.inf)]


def chosen(scores: np.ndarray, tags: np.ndarray) -> np.ndarray:
    return threshold_selection.fit_thresholds(scores, tags, np.ones_like(tags))


METHODS: dict[str, Thresholds] = {
    "one for all": common,
    "of their own, from 5 images on": of_their_own(5),
    "of their own, from 15 images on": of_their_own(15),
    "jaxtag's": chosen,
}


def judge(
    logits: np.ndarray, tags: np.ndarray, chosen_on: np.ndarray, judged_on: np.ndarray
) -> dict[str, list[float]]:
    """Method -> [micro F1, macro F1] on the images that did not choose."""
    known = np.ones_like(tags)
    calibration: TagCalibration = fit_calibration(*(a[chosen_on] for a in (logits, tags, known)))
    scores = calibrated_scores(logits, calibration.scale, calibration.shift)
    judged = {}
    for name, fit in METHODS.items():
        rates = multilabel.per_class_metrics(
            scores[judged_on],
            tags[judged_on],
            known[judged_on],
            fit(scores[chosen_on], tags[chosen_on]),
        )
        judged[name] = list(multilabel.threshold_metrics(rates).values())
    return judged


def report(results: dict[str, np.ndarray]) -> None:
    for name, scores in results.items():
        differences = scores[:, 0] - results["one for all"][:, 0]
        print(
            f"{name:32} micro F1 {scores[:, 0].mean():.4f}, macro F1 {scores[:, 1].mean():.4f}; "
            f"micro F1 worse than one for all in {(differences < 0).sum()} of {len(scores)}, "
            f"at worst by {max(0.0, -differences.min()):.4f}"
        )


if __name__ == "__main__":
    main()
