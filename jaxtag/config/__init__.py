"""The typed configuration of a run: its schema, command-line flags and names of older versions."""

from jaxtag.config.schema import (
    AugmentationConfig,
    CheckpointConfig,
    Config,
    DataConfig,
    EvaluationConfig,
    MeshConfig,
    ModelConfig,
    OptimizerConfig,
    TaskConfig,
)

__all__ = [
    "AugmentationConfig",
    "CheckpointConfig",
    "Config",
    "DataConfig",
    "EvaluationConfig",
    "MeshConfig",
    "ModelConfig",
    "OptimizerConfig",
    "TaskConfig",
]
