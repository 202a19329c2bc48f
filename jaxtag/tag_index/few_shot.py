"""Few-shot classification of feature vectors: a linear probe and nearest neighbors."""

import functools
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Bool, Float, Integer
from scipy.sparse import csr_array

from jaxtag.errors import UserError
from jaxtag.tag_index import voting

_PENALTIES = tuple(10.0**power for power in range(-5, 2))  # L2
_DEFAULT_PENALTY = 1e-2  # where no images can be held out to select one
_ITERATIONS = 100  # of L-BFGS
_TEMPERATURE = 0.05

LabeledVectors = tuple[np.ndarray, np.ndarray]  # (vectors float32 [N, D], classes int [N])


def evaluate(
    training: LabeledVectors, test: LabeledVectors, shots: Iterable[int], seeds: int
) -> dict[int, dict[str, list[float]]]:
    """Accuracy on `test` after training on k images per class, sampled from `training`.

    Args:
        training: vectors to sample from.
        test: vectors to classify.
        shots: values of k.
        seeds: number of samples.

    Returns:
        {k: {"linear_probe": accuracy of each seed, "nearest_neighbors": …}}.

    Raises:
        UserError: a class has fewer than the largest k images, or none.
    """
    vectors, labels = training
    num_classes, shots = int(max(labels.max(), test[1].max())) + 1, sorted(shots)
    return evaluate_samples(vectors, draw(labels, num_classes, shots[-1], seeds), test, shots)


def draw(
    labels: Integer[np.ndarray, " N"], num_classes: int, count: int, seeds: int
) -> Integer[np.ndarray, "S C K"]:
    """Indices of `count` random images of each class, for each seed.

    Raises:
        UserError: a class has fewer images.
    """
    counts = np.bincount(labels, minlength=num_classes)
    if counts.min() < count:
        raise UserError(
            f"class {counts.argmin()} has {counts.min()} training images, fewer than the "
            f"{count} of --shots"
        )
    return np.stack([_sample(labels, num_classes, count, seed) for seed in range(seeds)])


def evaluate_samples(
    vectors: Float[np.ndarray, "N D"],
    samples: Integer[np.ndarray, "S C K"],
    test: LabeledVectors,
    shots: Iterable[int],
) -> dict[int, dict[str, list[float]]]:
    """As `evaluate`, with samples that were drawn before.

    Args:
        vectors: of training images.
        samples: their indices; those of fewer shots are the first ones.
        test: vectors to classify.
        shots: values of k, at most K.
    """
    num_classes, most = samples.shape[1:]
    accuracies: dict[int, dict[str, list[float]]] = {
        k: {"linear_probe": [], "nearest_neighbors": []} for k in shots
    }
    for sample in samples:
        x = vectors[sample].reshape(-1, vectors.shape[1])
        y = np.repeat(np.arange(num_classes), most)
        for k in accuracies:
            used = np.tile(np.arange(most) < k, num_classes)
            held_out = np.tile(np.arange(most) < _num_held_out(k), num_classes)
            scores = {
                "linear_probe": linear_probe(x, y, used, held_out, test[0], num_classes),
                "nearest_neighbors": nearest_neighbors(x[used], y[used], test[0], k, num_classes),
            }
            for name, class_scores in scores.items():
                accuracies[k][name].append(float((class_scores.argmax(1) == test[1]).mean()))
    return accuracies


def linear_probe(
    vectors: Float[np.ndarray, "N D"],
    labels: Integer[np.ndarray, " N"],
    used: Bool[np.ndarray, " N"],
    held_out: Bool[np.ndarray, " N"],
    test: Float[np.ndarray, "M D"],
    num_classes: int,
) -> Float[np.ndarray, "M C"]:
    """Multinomial logistic regression by L-BFGS, with an L2 penalty selected on a held-out part.

    As in Radford et al. 2021 (arXiv:2103.00020, appendix A.3), on centered vectors that are scaled
    to a mean square of 1. The penalty is the one with the lowest cross-entropy on the held-out part
    after a regression without it; the final regression uses all training vectors.

    Args:
        vectors: of which some are used.
        labels: classes.
        used: which vectors are for training.
        held_out: which of these the penalty is selected on.
        test: vectors to classify.
        num_classes: C.

    Returns:
        logits of `test`, float32.
    """
    mean = vectors[used].mean(0)
    scale = np.sqrt(np.square(vectors[used] - mean).mean()) + 1e-12
    x, test = ((array - mean) / scale for array in (vectors, test))
    penalty = _DEFAULT_PENALTY
    if held_out.any():
        fits = _fit(x, labels, used & ~held_out, jnp.asarray(_PENALTIES), num_classes=num_classes)
        losses = [
            _cross_entropy(x @ w + b, labels)[held_out].mean() for w, b in zip(*fits, strict=True)
        ]
        penalty = _PENALTIES[int(np.argmin(losses))]
    (weights,), (bias,) = _fit(x, labels, used, jnp.asarray([penalty]), num_classes=num_classes)
    return np.asarray(test @ weights + bias)


def nearest_neighbors(
    vectors: Float[np.ndarray, "N D"],
    labels: Integer[np.ndarray, " N"],
    test: Float[np.ndarray, "M D"],
    count: int,
    num_classes: int,
) -> Float[np.ndarray, "M C"]:
    """kNN scores of the classes by the `count` nearest vectors in cosine similarity."""
    lengths = (np.linalg.norm(x, axis=1, keepdims=True) + 1e-12 for x in (test, vectors))
    similarities = test / next(lengths) @ (vectors / next(lengths)).T
    ids = np.argsort(-similarities, axis=1, kind="stable")[:, :count]
    nearest = np.take_along_axis(similarities, ids, 1)
    one_hot = csr_array(np.eye(num_classes, dtype=np.float32)[labels])
    return voting.vote(nearest, ids, one_hot, _TEMPERATURE)


def _num_held_out(shots: int) -> int:
    """A quarter of a class's images, at least one, but never the only one."""
    return 0 if shots == 1 else max(1, shots // 4)


def _sample(labels: np.ndarray, num_classes: int, count: int, seed: int) -> np.ndarray:
    """Indices of `count` random images of each class, [classes, count]."""
    rng = np.random.default_rng(seed)
    rows_of_class = [np.flatnonzero(labels == index) for index in range(num_classes)]
    return np.stack([rng.permutation(rows)[:count] for rows in rows_of_class])


@functools.partial(jax.jit, static_argnames="num_classes")
def _fit(
    x: ArrayLike, labels: ArrayLike, used: ArrayLike, penalties: jax.Array, *, num_classes: int
) -> tuple[jax.Array, jax.Array]:
    """Fits weights [P, D, C] and biases [P, C], for each of P penalties."""
    x, used = jnp.asarray(x), jnp.asarray(used)

    def fit(penalty: jax.Array) -> tuple[jax.Array, jax.Array]:
        def loss(params: tuple[jax.Array, jax.Array]) -> jax.Array:
            weights, bias = params
            losses = _cross_entropy(x @ weights + bias, labels)
            mean = (losses * used).sum() / used.sum()
            return mean + penalty / 2 * jnp.square(weights).sum()

        optimizer = optax.lbfgs()
        value_and_grad = optax.value_and_grad_from_state(loss)

        def step(carry: tuple[Any, Any], _: None) -> tuple[tuple[Any, Any], None]:
            params, state = carry
            value, grad = value_and_grad(params, state=state)
            updates, state = optimizer.update(
                grad, state, params, value=value, grad=grad, value_fn=loss
            )
            return (optax.apply_updates(params, updates), state), None

        start = jnp.zeros((x.shape[1], num_classes)), jnp.zeros(num_classes)
        (params, _), _ = lax.scan(step, (start, optimizer.init(start)), None, _ITERATIONS)
        return params

    return jax.vmap(fit)(penalties)


def _cross_entropy(logits: ArrayLike, labels: ArrayLike) -> jax.Array:
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels)
