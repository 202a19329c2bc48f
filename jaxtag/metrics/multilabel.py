"""Metrics of multi-label tagging over a whole evaluation set.

Throughout, N pictures and T tags: scores float [N, T], `tags` bool [N, T] (present), `known` bool
[N, T]. What is not known is left out: it is neither right nor wrong. Means over tags are over
those that some picture has, as the others have no recall.
"""

import numpy as np

K = 5  # tags that a picture is given in the metrics @k
_BINS = 15


def ranking_metrics(scores: np.ndarray, tags: np.ndarray, known: np.ndarray) -> dict[str, float]:
    """Metrics that take no thresholds: `map`, `map_11_point` and those of `at_k`."""
    precisions = average_precisions(scores, tags, known)
    interpolated = average_precisions(scores, tags, known, eleven_points=True)
    return {
        "map": _mean(precisions),
        "map_11_point": _mean(interpolated),
        **metrics_at_k(scores, tags, known),
    }


def threshold_metrics(per_tag: dict[str, np.ndarray]) -> dict[str, float]:
    """`micro_f1` and `macro_f1` from `of_tags`."""
    right, given, wanted = (per_tag[name] for name in ("right", "given", "present"))
    return {
        "micro_f1": float(2 * right.sum() / max(given.sum() + wanted.sum(), 1)),
        "macro_f1": _mean(np.where(wanted > 0, per_tag["f1"], np.nan)),
    }


def per_class_metrics(
    scores: np.ndarray, tags: np.ndarray, known: np.ndarray, thresholds: np.ndarray
) -> dict[str, np.ndarray]:
    """Of each tag [T], where it is given from its threshold on: `present`, `given` and `right`
    (pictures), `precision`, `recall` and `f1`; a share of nothing is 0.
    """
    chosen = (scores >= thresholds) & known
    tags = tags & known
    present, given, right = (one.sum(0) for one in (tags, chosen, chosen & tags))
    return {
        "present": present,
        "given": given,
        "right": right,
        "precision": right / np.maximum(given, 1),
        "recall": right / np.maximum(present, 1),
        "f1": 2 * right / np.maximum(given + present, 1),
    }


def metrics_at_k(
    scores: np.ndarray, tags: np.ndarray, known: np.ndarray, k: int = K
) -> dict[str, float]:
    """Each picture is given its k highest tags, as is usual on Corel-5K.

    Precision and recall are means over the tags, F1 is of the two means, and N+ counts the tags
    with a recall above 0 (Makadia et al. 2008, section 4.2; Guillaumin et al. 2009, section 4.2).
    Of equal scores the tag of the lower number comes first. The tags are those that some picture
    has; one that no picture is given has precision 0.
    """
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    given = np.zeros(scores.shape, bool)
    np.put_along_axis(given, order, True, axis=1)
    found = per_class_metrics(given, tags, known, np.ones(scores.shape[1]))
    wanted = found["present"] > 0
    precision, recall = (
        _mean(np.where(wanted, found[name], np.nan)) for name in ("precision", "recall")
    )
    return {
        f"precision@{k}": precision,
        f"recall@{k}": recall,
        f"f1@{k}": 2 * precision * recall / max(precision + recall, 1e-12),
        "n+": float((found["right"] > 0).sum()),
    }


def average_precisions(
    scores: np.ndarray, tags: np.ndarray, known: np.ndarray, eleven_points: bool = False
) -> np.ndarray:
    """Average precision of each tag [T]; NaN for one that no picture has.

    The sum of precisions weighted by the steps of recall, where pictures of equal scores come
    together, as scikit-learn has it. With `eleven_points` the mean over recalls of 0, 0.1, … 1 of
    the highest precision at that recall or above (VOC 2007; Everingham et al. 2010, section 4.2).
    """
    found = np.full(scores.shape[1], np.nan)
    for tag in range(scores.shape[1]):
        rows = known[:, tag]
        if tags[rows, tag].any():
            right, given = ranked(scores[rows, tag], tags[rows, tag])[1:]
            measure = _eleven_points if eleven_points else _average_precision
            found[tag] = measure(right, given)
    return found


def ranked(scores: np.ndarray, present: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The distinct scores, descending, and of those not below each how many are right, how many
    there are at all. Scores and `present` are [N].
    """
    order = np.argsort(-scores, kind="stable")
    scores, present = scores[order], present[order]
    last = np.flatnonzero(np.append(scores[1:] != scores[:-1], True))
    return scores[last], np.cumsum(present)[last], last + 1


def calibration_error(scores: np.ndarray, tags: np.ndarray, known: np.ndarray) -> float:
    """The gap between mean score and share of presence, over 15 equal bins of the score.

    Weighted by their counts (Guo et al. 2017, arXiv:1706.04599, section 2), over all that is known.
    """
    values, truth = scores[known], tags[known]
    bins = np.minimum((values * _BINS).astype(int), _BINS - 1)
    gaps = np.bincount(bins, values - truth, minlength=_BINS)
    return float(np.abs(gaps).sum() / max(len(values), 1))


def _average_precision(right: np.ndarray, given: np.ndarray) -> float:
    recall = right / right[-1]
    return float((np.diff(recall, prepend=0.0) * right / given).sum())


def _eleven_points(right: np.ndarray, given: np.ndarray) -> float:
    precision = right / given
    # Whole numbers: in floating point a recall of 3 / 10 may be below 0.3.
    return float(np.mean([precision[10 * right >= ten * right[-1]].max() for ten in range(11)]))


def _mean(values: np.ndarray) -> float:
    """Over those that are not NaN; 0 of none."""
    kept = values[~np.isnan(values)]
    return float(kept.mean()) if len(kept) else 0.0
