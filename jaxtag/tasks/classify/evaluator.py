"""Evaluation of a classifier: accuracy, calibration, and which classes it takes for which."""

import dataclasses
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from jaxtag.config.schema import Config
from jaxtag.data.labels import LabelNames
from jaxtag.data.sources import Source
from jaxtag.distributed import mesh as meshes
from jaxtag.tasks import eval_batches
from jaxtag.tasks.classify import task as classify


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What an evaluation found.

    Attributes:
      metrics: name → value, shares of 1.
      confusion: int64 [classes, classes]: pictures of a class (row) taken for a class (column).
      predictions: position in the split → (class taken for, its probability, class in truth).
      pictures: position in the split → uint8 [S, S, 3], a few of them.
      classes: their names.
    """

    metrics: dict[str, float]
    confusion: np.ndarray
    predictions: dict[int, tuple[int, float, int]]
    pictures: dict[int, np.ndarray]
    classes: LabelNames

    def part(self, source: Source) -> dict[str, float]:
        """Accuracy on the pictures of `source`, the first ones of the split."""
        kept = [p for index, p in self.predictions.items() if index < len(source)]
        right = sum(guess == truth for guess, _, truth in kept)
        return {"top1": right / max(len(kept), 1)}

    def shown(self) -> list[tuple[int, np.ndarray, str, list[str]]]:
        """(position, picture, class with its probability, true class) of a few."""
        names, found = self.classes.names, []
        for index, picture in sorted(self.pictures.items()):
            guess, chance, truth = self.predictions[index]
            found.append((index, picture, f"{names[guess]} ({chance:.0%})", [names[truth]]))
        return found

    def compared(self, config: Config) -> dict[str, dict[str, float]]:
        """The model beside the class that is most frequent in the split."""
        del config
        frequency = self.confusion.sum(1)
        return {
            "model": self.metrics,
            "most frequent class": {"top1": float(frequency.max() / max(frequency.sum(), 1))},
        }


class ClassEvaluator:
    """Evaluates variables on splits of one data set; compiles once."""

    def __init__(
        self,
        task: classify.ClassifyTask,
        mesh: jax.sharding.Mesh,
        config: Config,
        classes: LabelNames,
    ):
        meshes.check_batch(mesh, config.evaluation.batch_size, "config.evaluation.batch_size")
        self._mesh, self._config, self._classes = mesh, config, classes
        self._score = jax.jit(
            meshes.with_mesh(mesh, task.score), out_shardings=meshes.replicated(mesh)
        )

    def __call__(self, variables: Any, source: Source) -> Evaluation:
        """Evaluates every example of `source` once, on any number of processes."""
        sums: dict[str, np.ndarray] = {}
        predictions: dict[int, tuple[int, float, int]] = {}
        pictures: dict[int, np.ndarray] = {}
        example = classify.example(self._config, self._classes, train=False)
        for batch in eval_batches.of(source, self._config, example, self._mesh):
            arrays = meshes.make_global_batch(batch, self._mesh)
            counts, (guess, chance) = jax.device_get(self._score(variables, arrays))
            for name, value in counts.items():
                sums[name] = sums.get(name, 0) + np.asarray(value, np.float64)
            index, mask, label = multihost_utils.process_allgather(
                (arrays["index"], arrays["mask"], arrays["label"]), tiled=True
            )
            for row in np.flatnonzero(mask > 0):
                found = int(guess[row]), float(chance[row]), int(label[row])
                predictions[int(index[row])] = found
            for row in np.flatnonzero(batch["mask"] > 0):
                if len(pictures) < self._config.evaluation.num_samples_shown:
                    pictures[int(batch["index"][row])] = batch["image"][row]
        metrics = classify.finish(sums)
        confusion = sums["confusion"].astype(np.int64)
        return Evaluation(metrics, confusion, predictions, pictures, self._classes)
