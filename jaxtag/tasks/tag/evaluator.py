"""Evaluation of a tagger: rankings, decisions, calibration, and each tag by itself."""

import dataclasses
import functools
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import logging
from jax.experimental import multihost_utils

from jaxtag.config.schema import Config
from jaxtag.data import sources
from jaxtag.data.labels import LabelNames
from jaxtag.data.sources import Source
from jaxtag.distributed import mesh as meshes
from jaxtag.metrics import multilabel
from jaxtag.tasks import eval_batches
from jaxtag.tasks.tag import calibration, fit_calibration
from jaxtag.tasks.tag import task as tag
from jaxtag.tasks.tag.calibration import TagCalibration


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What an evaluation found, of the N pictures that could be read and all T tags.

    Attributes:
      index: positions in the split, ascending [N].
      scores: calibrated, float64 [N, T].
      tags: bool [N, T]; present.
      known: bool [N, T].
      decisions: by which tags are given.
      chosen: whether they were chosen on these pictures.
      pictures: position in the split → uint8 [S, S, 3], a few of them.
      classes: names of the tags.
    """

    index: np.ndarray
    scores: np.ndarray
    tags: np.ndarray
    known: np.ndarray
    decisions: TagCalibration
    chosen: bool
    pictures: dict[int, np.ndarray]
    classes: LabelNames

    @functools.cached_property
    def metrics(self) -> dict[str, float]:
        """name → value (see `tagging`)."""
        return self._metrics(np.ones(len(self.index), bool))

    def part(self, source: Source) -> dict[str, float]:
        """Metrics on the pictures of `source`, the first ones of the split."""
        return self._metrics(self.index < len(source))

    def _metrics(self, kept: np.ndarray) -> dict[str, float]:
        scores, tags, known = self.scores[kept], self.tags[kept], self.known[kept]
        per_tag = multilabel.per_class_metrics(
            scores, tags, known, np.array(self.decisions.thresholds)
        )
        return {
            **multilabel.ranking_metrics(scores, tags, known),
            **multilabel.threshold_metrics(per_tag),
            "calibration_error": multilabel.calibration_error(scores, tags, known),
            "examples": float(kept.sum()),
        }

    def per_tag(self) -> dict[str, dict[str, float]]:
        """Name → pictures that have it, its threshold, and how well it is given."""
        values = (self.scores, self.tags, self.known)
        thresholds = np.array(self.decisions.thresholds)
        found = {"threshold": thresholds, **multilabel.per_class_metrics(*values, thresholds)}
        found["average_precision"] = np.nan_to_num(multilabel.average_precisions(*values))
        return {
            name: {key: float(column[number]) for key, column in found.items()}
            for number, name in enumerate(self.classes.names)
        }

    def shown(self) -> list[tuple[int, np.ndarray, str, list[str]]]:
        """(position, picture, tags with their scores, true tags) of a few."""
        names, found = self.classes.names, []
        for position, picture in sorted(self.pictures.items()):
            row = int(np.searchsorted(self.index, position))
            given = given_tags(self.scores[row], self.decisions)
            said = ", ".join(
                f"{names[number]} ({self.scores[row, number]:.0%})" for number in given
            )
            right = ", ".join(names[number] for number in np.flatnonzero(self.tags[row]))
            found.append((position, picture, said, [right]))
        return found

    def compared(self, config: Config) -> dict[str, dict[str, float]]:
        """The model beside the tags that are most frequent in training, for every picture."""
        training = sources.open_split(
            config.data.dataset, config.data.train_split, config.data.data_dir
        )
        counts = sources.tag_counts(training, len(self.classes))
        frequencies = np.broadcast_to(counts / len(training), self.scores.shape)
        return {
            "model": self.metrics,
            "most frequent tags": multilabel.ranking_metrics(frequencies, self.tags, self.known),
        }

    def keep(self, workdir: Path, step: int) -> None:
        """Writes what was chosen where `trained.load` finds it with the checkpoint of `step`."""
        if self.chosen:
            self.decisions.save(calibration.calibration_path(workdir, step), self.classes.names)


def given_tags(
    scores: np.ndarray, decisions: TagCalibration, most: int | None = None
) -> np.ndarray:
    """Numbers of the tags that a picture is given, the likeliest first: those from their threshold
    on, at most `most`, and at least the likeliest. `scores` are [T].
    """
    order = np.argsort(-scores, kind="stable")
    given = order[(scores >= np.array(decisions.thresholds))[order]][:most]
    return given if len(given) else order[:1]


class TagEvaluator:
    """Evaluates variables on splits of one data set; compiles once."""

    def __init__(
        self, task: tag.TagTask, mesh: jax.sharding.Mesh, config: Config, classes: LabelNames
    ):
        meshes.check_batch(mesh, config.evaluation.batch_size, "config.evaluation.batch_size")
        self._mesh, self._config, self._classes = mesh, config, classes
        self._decisions = task.decisions
        self._logits = jax.jit(
            meshes.with_mesh(mesh, task.logits), out_shardings=meshes.replicated(mesh)
        )

    def __call__(self, variables: Any, source: Source) -> Evaluation:
        """Evaluates every example of `source` once, on any number of processes.

        Where the task has no decisions yet they are chosen here, on the evaluation split alone.
        """
        parts: list[tuple[np.ndarray, ...]] = []
        pictures: dict[int, np.ndarray] = {}
        example = tag.example(self._config, self._classes, train=False)
        for batch in eval_batches.of(source, self._config, example, self._mesh):
            arrays = meshes.make_global_batch(batch, self._mesh)
            logits = jax.device_get(self._logits(variables, arrays["image"]))
            names = ("index", "tags", "known", "mask")
            *rows, mask = multihost_utils.process_allgather(
                tuple(arrays[name] for name in names), tiled=True
            )
            kept = np.flatnonzero(np.asarray(mask) > 0)
            parts.append(tuple(np.asarray(one)[kept] for one in (*rows, logits)))
            for row in np.flatnonzero(batch["mask"] > 0):
                if len(pictures) < self._config.evaluation.num_samples_shown:
                    pictures[int(batch["index"][row])] = batch["image"][row]
        index, tags, known, logits = map(np.concatenate, zip(*parts, strict=True))
        order = np.argsort(index)
        index, logits = index[order], logits[order]
        tags, known = tags[order].astype(bool), known[order].astype(bool)
        decisions, chosen = self._decide(source, logits, tags, known)
        scores = fit_calibration.calibrated_scores(logits, decisions.scale, decisions.shift)
        return Evaluation(index, scores, tags, known, decisions, chosen, pictures, self._classes)

    def _decide(
        self, source: Source, logits: np.ndarray, tags: np.ndarray, known: np.ndarray
    ) -> tuple[TagCalibration, bool]:
        """The decisions, and whether they were chosen now."""
        if self._decisions is not None:
            return self._decisions, False
        split = self._config.data.evaluation_split
        if source.split == split:
            return fit_calibration.fit_calibration(logits, tags, known), True
        logging.warning(
            "no thresholds were chosen for this checkpoint, 0.5 is taken: evaluate it on %r first",
            split,
        )
        return TagCalibration.plain(logits.shape[1]), False
