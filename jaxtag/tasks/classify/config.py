"""The section `config.task` of a classification run."""

import dataclasses
from dataclasses import field
from typing import Any, ClassVar

from jaxtag.config.schema import TaskConfig


@dataclasses.dataclass
class ClassifyConfig(TaskConfig):
    """Single-label classification."""

    TASK: ClassVar[str] = "classify"

    loss: str = (
        "softmax"  # softmax (cross-entropy), margin (of capsule lengths), package.module:Name
    )
    loss_kwargs: dict[str, Any] = field(default_factory=dict)
    label_smoothing: float = 0.0
