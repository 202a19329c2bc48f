"""From a configuration to all that is compiled: shapes first, shardings second, arrays third.

Training, evaluation, annotation and ahead-of-time compilation all start here, so that they speak
of the same program.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import optax
from jax.sharding import Mesh

from jaxtag.config.schema import Config, OptimizerConfig
from jaxtag.distributed import mesh as meshes
from jaxtag.distributed import sharding
from jaxtag.tasks import TASKS, Task
from jaxtag.training import ema
from jaxtag.training import optimizer as optimizers
from jaxtag.training import train_step as steps
from jaxtag.training.train_state import TrainState, create_train_state


@dataclasses.dataclass(frozen=True)
class TrainSetup:
    """A task on a mesh, with the shapes and places of all its arrays.

    Attributes:
      total_steps: of the whole run.
      placements: where each parameter lies, for the table.
      shapes: a State of ShapeDtypeStructs with shardings: what a checkpoint restores into.
    """

    config: Config
    mesh: Mesh
    task: Task
    total_steps: int
    rate: optax.Schedule
    optimizer: optax.GradientTransformation
    placements: list[sharding.ParamSharding]
    shapes: TrainState
    _initialize: Callable[[jax.Array], TrainState]

    @property
    def shardings(self) -> TrainState:
        """The sharding of each array of the state."""
        return jax.tree.map(lambda leaf: leaf.sharding, self.shapes)

    def initialize(self) -> TrainState:
        """A fresh state, made in its place: no array is ever whole on one device."""
        make = jax.jit(self._initialize, out_shardings=self.shardings)
        return make(jax.random.key(self.config.seed))

    @functools.cached_property
    def step(self) -> Callable[[TrainState, Any], tuple[TrainState, steps.Metrics]]:
        """The compiled training step."""
        settings = self.config.optimizer
        step = steps.make_train_step(
            self.task,
            self.optimizer,
            self.rate,
            accumulate=settings.accumulate,
            average=_average(settings, self.total_steps),
            trained=optimizers.trainable_mask(settings, self.shapes.params),
        )
        return steps.compile_step(step, self.shardings, self.mesh)


def build(config: Config, words: int, examples: int, mesh: Mesh | None = None) -> TrainSetup:
    """Plans a run; computes and allocates nothing.

    Args:
      words: how many tokens, or classes, there are.
      examples: of the training split; says how long an epoch is.
      mesh: by default made of all devices as `config.mesh` says.
    """
    if mesh is None:
        mesh = make_config_mesh(config)
    meshes.check_batch(mesh, config.batch_size // config.optimizer.grad_accum_steps, _BATCH_FIELD)
    task = TASKS[config.task].make(config, words)
    epoch = examples / config.batch_size
    total = total_steps(config, examples)
    rate = optimizers.make_lr_schedule(config.optimizer, total, epoch)
    variables = jax.eval_shape(task.init, jax.random.key(0))
    params = variables["params"]
    optimizer = optimizers.make_optimizer(config.optimizer, rate, params)
    start = functools.partial(
        create_train_state, optimizer=optimizer, ema=config.optimizer.ema_decay is not None
    )

    def initialize(key: jax.Array) -> TrainState:
        init_key, run_key = jax.random.split(key)
        return start(task.init(init_key), run_key)

    # Of `start`, not of `initialize`: tracing the model once is enough.
    shapes = jax.eval_shape(start, variables, jax.random.key(0))
    placements = sharding.infer_sharding(params, mesh, (*config.mesh.rules, *sharding.TRANSFORMER))
    places = sharding.shardings(shapes, placements, mesh)
    shapes = jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
        shapes,
        places,
    )
    return TrainSetup(config, mesh, task, total, rate, optimizer, placements, shapes, initialize)


def _average(settings: OptimizerConfig, total_steps: int) -> ema.AverageUpdate:
    if settings.ema_decay is None:
        return ema.no_average
    if settings.lookahead:
        return ema.lookahead(settings.ema_decay, settings.lookahead, total_steps)
    return ema.ema(settings.ema_decay)


def make_config_mesh(config: Config) -> Mesh:
    """All devices, as `config.mesh` says."""
    return meshes.make_mesh(config.mesh.data, config.mesh.fsdp, config.mesh.tensor)


_BATCH_FIELD = "config.batch_size / config.optimizer.grad_accum_steps"


def total_steps(config: Config, examples: int) -> int:
    """How many steps a run has: total_steps, else total_epochs over the training split."""
    if config.total_steps is not None:
        return config.total_steps
    return max(1, round(config.total_epochs * examples / config.batch_size))
