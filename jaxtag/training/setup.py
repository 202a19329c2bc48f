"""From a configuration to all that is compiled: shapes first, shardings second, arrays third."""

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
from jaxtag.errors import UsageError
from jaxtag.tasks.base import Task
from jaxtag.training import ema, train_step, xla_options
from jaxtag.training.optimizer import make_lr_schedule, make_optimizer, trainable_mask
from jaxtag.training.train_state import TrainState

_BATCH_FIELD = "config.batch_size / config.optimizer.grad_accum_steps"


@dataclasses.dataclass(frozen=True)
class TrainSetup:
    """A task on a mesh, with the shapes and shardings of all its arrays.

    Attributes:
        total_steps: of the whole run.
        param_shardings: how each parameter is split, for the table.
        shapes: a TrainState of ShapeDtypeStructs with shardings: what a checkpoint restores into.
    """

    config: Config
    mesh: Mesh
    task: Task
    total_steps: int
    lr_schedule: optax.Schedule
    optimizer: optax.GradientTransformation
    param_shardings: list[sharding.ParamSharding]
    shapes: TrainState
    _initialize: Callable[[jax.Array], TrainState]

    @classmethod
    def from_config(
        cls,
        config: Config,
        task: Task,
        num_examples: int,
        mesh: Mesh | None = None,
        lr_schedule: optax.Schedule | None = None,
    ) -> "TrainSetup":
        """Plans a run; computes and allocates nothing.

        Args:
            num_examples: of the training split; determines the length of an epoch.
            mesh: by default of all devices, as `config.mesh` says.
            lr_schedule: by default that of `config.optimizer`.
        """
        if mesh is None:
            mesh = make_config_mesh(config)
        batch_size = config.batch_size // config.optimizer.grad_accum_steps
        meshes.check_batch(mesh, batch_size, _BATCH_FIELD)
        total = count_steps(config, num_examples)
        if lr_schedule is None:
            epoch_steps = num_examples / config.batch_size
            lr_schedule = make_lr_schedule(config.optimizer, total, epoch_steps)
        variables = jax.eval_shape(task.init, jax.random.key(0))
        params = variables["params"]
        config = _freeze_backbone(config, task)
        optimizer = make_optimizer(config.optimizer, lr_schedule, params)
        create = functools.partial(
            TrainState.create, optimizer=optimizer, ema_dtype=_ema_dtype(config.optimizer)
        )

        def initialize(key: jax.Array) -> TrainState:
            init_key, run_key = jax.random.split(key)
            return create(task.init(init_key), run_key)

        # Of `create`, not of `initialize`: tracing the model once is enough.
        shapes = jax.eval_shape(create, variables, jax.random.key(0))
        rules = (*config.mesh.rules, *sharding.TRANSFORMER)
        param_shardings = sharding.infer_sharding(params, mesh, rules)
        shapes = sharding.shard_shapes(
            shapes,
            param_shardings,
            mesh,
            over_data=("opt_state", "ema") if config.mesh.shard_optimizer_over_data else (),
            offload=config.mesh.offload,
        )
        return cls(
            config, mesh, task, total, lr_schedule, optimizer, param_shardings, shapes, initialize
        )

    @property
    def shardings(self) -> TrainState:
        """The sharding of each array of the state."""
        return jax.tree.map(lambda leaf: leaf.sharding, self.shapes)

    def initialize(self) -> TrainState:
        """A fresh state, made where it lies: no array is ever whole on one device."""
        make = jax.jit(self._initialize, out_shardings=self.shardings)
        return make(jax.random.key(self.config.seed))

    @functools.cached_property
    def step(self) -> jax.stages.Wrapped:
        """The jitted training step, (state, batch) -> (state, metrics)."""
        settings, split = self.config.optimizer, self.config.mesh.shard_optimizer_over_data
        step = train_step.make_train_step(
            self.task,
            self.optimizer,
            self.lr_schedule,
            grad_accum_steps=settings.grad_accum_steps,
            average=_average(settings, self.total_steps),
            trainable=trainable_mask(settings, self.shapes.params),
            grad_shardings=self._grad_shardings() if split else None,
        )
        platform = self.mesh.devices.flat[0].platform
        options = xla_options.resolve(self.config.xla_options, platform)
        return train_step.compile_step(step, self.shardings, self.mesh, options)

    def _grad_shardings(self) -> Any:
        """Of each parameter's gradient, split as its moments are."""
        return jax.tree.map(
            lambda leaf: sharding.split_over_data(leaf.sharding, leaf.shape), self.shapes.params
        )


def _freeze_backbone(config: Config, task: Task) -> Config:
    """The configuration with a rule that freezes the parameters of a frozen backbone."""
    if not config.model.freeze:
        return config
    path = task.backbone[1]
    if not (path and task.can_freeze):
        raise UsageError(
            f"config.model.freeze: {type(task).__name__} trains no head on a frozen backbone; "
            "config.optimizer.lr_mults freezes parameters"
        )
    rule = (f"^{'/'.join(path)}/", 0.0)
    optimizer = dataclasses.replace(config.optimizer, lr_mults=(rule, *config.optimizer.lr_mults))
    return dataclasses.replace(config, optimizer=optimizer)


def make_config_mesh(config: Config) -> Mesh:
    """All devices, as `config.mesh` says."""
    return meshes.make_mesh(config.mesh.data, config.mesh.fsdp, config.mesh.tensor)


def count_steps(config: Config, num_examples: int) -> int:
    """The steps of a run: total_steps, else total_epochs over the training split."""
    if config.total_steps is not None:
        return config.total_steps
    assert config.total_epochs is not None  # checked by the schema
    return max(1, round(config.total_epochs * num_examples / config.batch_size))


def _ema_dtype(settings: OptimizerConfig) -> str | None:
    return None if settings.ema_decay is None else settings.ema_dtype


def _average(settings: OptimizerConfig, total_steps: int) -> ema.AverageUpdate:
    if settings.ema_decay is None:
        return ema.no_average
    if settings.lookahead_steps:
        return ema.lookahead(settings.ema_decay, settings.lookahead_steps, total_steps)
    return ema.ema(settings.ema_decay)
