"""A trained model out of a work directory, ready to use on whatever devices are here."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from jaxtag.config import schema as configuration
from jaxtag.config.schema import Config
from jaxtag.distributed import mesh as meshes
from jaxtag.distributed import sharding
from jaxtag.errors import UsageError, UserError
from jaxtag.tasks import TASKS, Task, evaluators
from jaxtag.tasks.tag import calibration
from jaxtag.tasks.tag import task as tag
from jaxtag.training import vocabulary as vocabularies
from jaxtag.training.checkpoint import Checkpoints
from jaxtag.training.vocabulary import Vocabulary


@dataclasses.dataclass(frozen=True)
class Trained:
    """A model and all that its use takes. `variables` are the averaged ones where there are any."""

    config: Config
    task: Task
    mesh: Mesh
    vocabulary: Vocabulary
    variables: Any
    step: int


def load(workdir: Path, config: Config | None = None, step: str = "newest") -> Trained:
    """Loads a model without its optimiser.

    Args:
      workdir: of a run of jaxtag.train, on whatever devices it ran.
      config: the run's own by default.
      step: `newest`, `best` (by config.checkpoint.best_metric), or a number.

    Raises:
      UserError: there is no such checkpoint, or it does not fit `config`.
    """
    config = configuration.load(workdir) if config is None else config
    vocabulary = vocabularies.load(config, workdir)
    # The devices here need not be those of the training.
    mesh = meshes.make_mesh()
    task = TASKS[config.task].make(config, len(vocabulary))
    variables = dict(jax.eval_shape(task.init, jax.random.key(0)))
    placements = sharding.infer_sharding(variables["params"], mesh, ((r".*", "replicate"),))
    params = variables.pop("params")
    wanted = {"params": params, "collections": variables}
    if config.optimizer.ema_decay is not None:
        wanted = {"ema": wanted}
    places = sharding.shardings(wanted, placements, mesh)
    wanted = jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
        wanted,
        places,
    )
    keep = config.checkpoint
    with Checkpoints(
        workdir / "checkpoints",
        keep_last=keep.keep_last,
        keep_best=keep.keep_best,
        best_metric=evaluators.best_metric(config),
    ) as checkpoints:
        restored = checkpoints.restore(wanted, _number(step, checkpoints), partial=True)
    found = restored.state.get("ema", restored.state)
    variables = {"params": found["params"], **found["collections"]}
    decisions = calibration.calibration_path(workdir, restored.step)
    if isinstance(task, tag.TagTask) and decisions.exists():
        found = calibration.TagCalibration.load(decisions, vocabulary.names)
        task = dataclasses.replace(task, decisions=found)
    return Trained(config, task, mesh, vocabulary, variables, restored.step)


def _number(step: str, checkpoints: Checkpoints) -> int | None:
    if step == "newest":
        return None
    if step == "best":
        best = checkpoints.best_step()
        if best is None:
            raise UserError(
                f"{checkpoints.directory} has no checkpoint that was evaluated: --step=newest"
            )
        return best
    if not step.isdecimal():
        raise UsageError(f"--step={step}: must be newest, best or a number")
    return int(step)
