"""Parts by name and their keyword arguments: what is wrong is named, with the nearest name."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import flax.linen as nn
import optax
import pytest

from jaxtag import registry
from jaxtag.errors import UsageError


def takes(logits: Any, alpha: float = 1.0, *, names: tuple[str, ...] = (), deep: int | None = 1):
    """A function with a parameter of each kind."""


def takes_all(**kwargs: float) -> None:
    """A function that takes any name."""


class Module(nn.Module):
    depths: tuple[int, ...]
    pool: Literal["avg", "max"] = "avg"


@pytest.mark.parametrize(
    ("function", "kwargs"),
    [
        (takes, {"alpha": 2, "names": ("a", "b"), "deep": None}),
        (takes_all, {"anything": 1.5}),
        (Module, {"depths": (1, 2), "pool": "max"}),
        (optax.adamw, {"b1": 0.8, "nesterov": True, "mu_dtype": "bfloat16"}),
        (optax.contrib.muon, {"ns_coeffs": (1.0, 2.0, 3.0), "preconditioning": "aol"}),
    ],
)
def test_right_arguments_pass(function, kwargs) -> None:
    registry.check_kwargs(function, kwargs, "config.x.kwargs")


@pytest.mark.parametrize(
    ("function", "kwargs", "message"),
    [
        (
            takes,
            {"alhpa": 1.0},
            r"^config.x.kwargs: takes has no argument 'alhpa' \(did .* alpha\?",
        ),
        (takes, {"logits": 1.0}, "no argument 'logits'"),
        (takes, {"alpha": "1"}, "takes's alpha = '1': must be float"),
        (takes, {"alpha": True}, "must be float"),
        (takes, {"names": "abc"}, r"must be tuple\[str, ...\]"),
        (takes, {"deep": 1.5}, r"must be int \| None"),
        (takes_all, {"anything": "x"}, "must be float"),
        (Module, {"depth": (1,)}, "did you mean depths"),
        (Module, {"parent": None}, "no argument 'parent'"),
        (Module, {"pool": "mean"}, r"must be Literal\['avg', 'max'\]"),
        (optax.adamw, {"b1": "0.8"}, "adamw's b1 = '0.8'"),
        (optax.adamw, {"learning_rate": 0.1}, "no argument 'learning_rate'"),
        (optax.contrib.muon, {"preconditioning": "none"}, "Literal"),
    ],
)
def test_wrong_arguments_are_named(function, kwargs, message) -> None:
    with pytest.raises(UsageError, match=message):
        registry.check_kwargs(function, kwargs, "config.x.kwargs")


@pytest.mark.parametrize(
    ("value", "annotation", "expected"),
    [
        ((1, 2), Sequence[float], True),
        ("12", Sequence[str], False),
        ({"a": 1}, dict[str, int], True),
        ({"a": "1"}, dict[str, int], False),
        (len, Callable[[Any], int], True),
        ("len", Callable[[Any], int], False),
        (object(), Any, True),
    ],
)
def test_types_of_values(value, annotation, expected) -> None:
    assert registry.has_type(value, annotation) == expected


@pytest.mark.parametrize("kind", ["classification_loss", "metric_loss", "multilabel_loss"])
def test_every_registered_loss_exists(kind) -> None:
    for name in registry.names(kind):
        assert callable(registry.resolve(kind, name, "config.task.loss"))
