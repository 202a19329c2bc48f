"""Metrics of multi-label tagging over a whole evaluation set.

N is the number of images, T of tags: scores float [N, T], `tags` bool [N, T] (present), `known`
bool [N, T]. Unknown labels are masked out. Means over tags are over those that some image has, as
the others have no recall.
"""

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

K = 5  # tags predicted per image in the metrics @k
_BINS = 15


def ranking_metrics(
    scores: Float[np.ndarray, "N T"], tags: Bool[np.ndarray, "N T"], known: Bool[np.ndarray, "N T"]
) -> dict[str, float]:
    """Metrics that need no thresholds: `map`, `map_11_point` and those of `metrics_at_k`."""
    precisions = average_precisions(scores, tags, known)
    interpolated = average_precisions(scores, tags, known, eleven_points=True)
    return {
        "map": _nanmean(precisions),
        "map_11_point": _nanmean(interpolated),
        **metrics_at_k(scores, tags, known),
    }


def threshold_metrics(per_class: dict[str, np.ndarray]) -> dict[str, float]:
    """`micro_f1` and `macro_f1` from the result of `per_class_metrics`."""
    total = per_class["given"].sum() + per_class["present"].sum()
    is_present = per_class["present"] > 0
    return {
        "micro_f1": float(2 * per_class["right"].sum() / max(total, 1)),
        "macro_f1": _nanmean(np.where(is_present, per_class["f1"], np.nan)),
    }


def per_class_metrics(
    scores: Shaped[np.ndarray, "N T"],
    tags: Bool[np.ndarray, "N T"],
    known: Bool[np.ndarray, "N T"],
    thresholds: Float[np.ndarray, " T"],
) -> dict[str, np.ndarray]:
    """Counts and rates of each tag when it is predicted from its threshold on.

    Returns:
        `present` (images that have the tag), `given` (that it is predicted for), `right` (both),
        `precision`, `recall` and `f1`, each [T]; a ratio with denominator 0 is 0.
    """
    predicted = (scores >= thresholds) & known
    tags = tags & known
    num_present, num_predicted = tags.sum(0), predicted.sum(0)
    true_positives = (predicted & tags).sum(0)
    return {
        "present": num_present,
        "given": num_predicted,
        "right": true_positives,
        "precision": true_positives / np.maximum(num_predicted, 1),
        "recall": true_positives / np.maximum(num_present, 1),
        "f1": 2 * true_positives / np.maximum(num_predicted + num_present, 1),
    }


def metrics_at_k(
    scores: Float[np.ndarray, "N T"],
    tags: Bool[np.ndarray, "N T"],
    known: Bool[np.ndarray, "N T"],
    k: int = K,
) -> dict[str, float]:
    """Metrics when each image is assigned its k highest-scored tags, as is usual on Corel-5K.

    Precision and recall are means over the tags, F1 is of the two means, and N+ counts the tags
    with a recall above 0 (Makadia et al. 2008, section 4.2; Guillaumin et al. 2009, section 4.2).
    Ties go to the tag with the lower index. The means are over the tags that some image has; a tag
    that is assigned to no image has precision 0.
    """
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    predicted = np.zeros(scores.shape, bool)
    np.put_along_axis(predicted, order, True, axis=1)
    per_class = per_class_metrics(predicted, tags, known, np.ones(scores.shape[1]))
    is_present = per_class["present"] > 0
    precision, recall = (
        _nanmean(np.where(is_present, per_class[name], np.nan)) for name in ("precision", "recall")
    )
    return {
        f"precision@{k}": precision,
        f"recall@{k}": recall,
        f"f1@{k}": 2 * precision * recall / max(precision + recall, 1e-12),
        "n+": float((per_class["right"] > 0).sum()),
    }


def average_precisions(
    scores: Float[np.ndarray, "N T"],
    tags: Bool[np.ndarray, "N T"],
    known: Bool[np.ndarray, "N T"],
    eleven_points: bool = False,
) -> Float[np.ndarray, " T"]:
    """Average precision of each tag; NaN for a tag that no image has.

    It is the sum of precisions weighted by the increments of recall, with images of equal scores
    taken together, as in scikit-learn.

    Args:
        eleven_points: instead, the mean over recalls of 0, 0.1, … 1 of the highest precision at
            that recall or above (VOC 2007; Everingham et al. 2010, section 4.2).
    """
    average = _eleven_point_precision if eleven_points else _average_precision
    precisions = np.full(scores.shape[1], np.nan)
    for tag in range(scores.shape[1]):
        rows = known[:, tag]
        if tags[rows, tag].any():
            _, true_positives, predicted = cumulative_counts(scores[rows, tag], tags[rows, tag])
            precisions[tag] = average(true_positives, predicted)
    return precisions


def cumulative_counts(
    scores: Float[np.ndarray, " N"], present: Bool[np.ndarray, " N"]
) -> tuple[Float[np.ndarray, " M"], Int[np.ndarray, " M"], Int[np.ndarray, " M"]]:
    """Counts of true positives and of predictions at each possible threshold of one tag.

    Returns:
        (the M distinct scores in descending order, number of present images with at least that
        score, number of all images with at least that score).
    """
    order = np.argsort(-scores, kind="stable")
    scores, present = scores[order], present[order]
    last = np.flatnonzero(np.append(scores[1:] != scores[:-1], True))
    return scores[last], np.cumsum(present)[last], last + 1


def calibration_error(
    scores: Float[np.ndarray, "N T"], tags: Bool[np.ndarray, "N T"], known: Bool[np.ndarray, "N T"]
) -> float:
    """Expected calibration error over all known labels, with 15 equal bins of the score.

    It is the mean gap between score and frequency of presence, weighted by the bins' counts (Guo
    et al. 2017, arXiv:1706.04599, section 2).
    """
    probabilities, truth = scores[known], tags[known]
    bins = np.minimum((probabilities * _BINS).astype(int), _BINS - 1)
    gaps = np.bincount(bins, probabilities - truth, minlength=_BINS)
    return float(np.abs(gaps).sum() / max(len(probabilities), 1))


def _average_precision(true_positives: np.ndarray, predicted: np.ndarray) -> float:
    recall = true_positives / true_positives[-1]
    return float((np.diff(recall, prepend=0.0) * true_positives / predicted).sum())


def _eleven_point_precision(true_positives: np.ndarray, predicted: np.ndarray) -> float:
    precision = true_positives / predicted
    # Compared as integers: in floating point a recall of 3 / 10 may be below 0.3.
    recalls = 10 * true_positives
    highest = [precision[recalls >= tenths * true_positives[-1]].max() for tenths in range(11)]
    return float(np.mean(highest))


def _nanmean(values: np.ndarray) -> float:
    """The mean of the values that are not NaN; 0 if there are none."""
    values = values[~np.isnan(values)]
    return float(values.mean()) if len(values) else 0.0
