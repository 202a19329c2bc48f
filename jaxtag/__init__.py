"""jaxtag: train image taggers and captioners in JAX/Flax, from one core to a TPU pod.

    predictor = jaxtag.load("runs/x")                     # a trained model
    jaxtag.fit(config, workdir="runs/y", data=sources)    # train
    model = jaxtag.create_model("resnet50", num_classes=10)

The names below are imported on first use, so that `import jaxtag` is quick.
"""

import importlib
import sys
import time
import types
from typing import TYPE_CHECKING, Any

__version__ = "0.2.0"

STARTED = time.perf_counter()  # about when the process of a command began

_MODULES = {
    "Callback": "jaxtag.training.callbacks",
    "Config": "jaxtag.config.schema",
    "MetricWriter": "jaxtag.training.metric_writer",
    "Prediction": "jaxtag.inference.prediction",
    "Predictor": "jaxtag.inference.predictor",
    "Task": "jaxtag.tasks.base",
    "TaskConfig": "jaxtag.config.schema",
    "create_model": "jaxtag.models",
    "evaluate": "jaxtag.api",
    "fit": "jaxtag.api",
    "get_preprocessing": "jaxtag.models",
    "list_models": "jaxtag.models",
    "load": "jaxtag.api",
    "load_config": "jaxtag.config.flags:load",
    "register": "jaxtag.registry",
    "register_dataset": "jaxtag.datasets",
    "register_model": "jaxtag.models",
}
_SUBMODULES = ("models", "weights")

__all__ = [
    "Callback",
    "Config",
    "MetricWriter",
    "Prediction",
    "Predictor",
    "Task",
    "TaskConfig",
    "create_model",
    "evaluate",
    "fit",
    "get_preprocessing",
    "list_models",
    "load",
    "load_config",
    "models",
    "register",
    "register_dataset",
    "register_model",
    "weights",
]

if TYPE_CHECKING:
    from jaxtag import models, weights
    from jaxtag.api import evaluate, fit, load
    from jaxtag.config.flags import load as load_config
    from jaxtag.config.schema import Config, TaskConfig
    from jaxtag.datasets import register_dataset
    from jaxtag.inference.prediction import Prediction
    from jaxtag.inference.predictor import Predictor
    from jaxtag.models import create_model, get_preprocessing, list_models, register_model
    from jaxtag.registry import register
    from jaxtag.tasks.base import Task
    from jaxtag.training.callbacks import Callback
    from jaxtag.training.metric_writer import MetricWriter


def __getattr__(name: str) -> Any:
    if name in _SUBMODULES:
        return importlib.import_module(f"jaxtag.{name}")
    if name not in _MODULES:
        raise AttributeError(f"module 'jaxtag' has no attribute {name!r}")
    module, _, attribute = _MODULES[name].partition(":")
    return getattr(importlib.import_module(module), attribute or name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])


class _Package(types.ModuleType):
    """Keeps the function `jaxtag.evaluate` when the command's module of that name is imported."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _MODULES and isinstance(value, types.ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
