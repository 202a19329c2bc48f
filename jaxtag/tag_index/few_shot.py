"""How far a few labelled pictures of each class go: a linear probe and nearest neighbours."""

import functools
from collections.abc import Iterable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from scipy.sparse import csr_array

from jaxtag.errors import UserError
from jaxtag.tag_index import voting

_L2 = tuple(10.0**power for power in range(-5, 2))
_L2_OF_ONE = 1e-2  # where nothing can be held out to choose it
_ITERATIONS = 100  # of L-BFGS
_TEMPERATURE = 0.05

Labelled = tuple[np.ndarray, np.ndarray]  # (vectors float32 [N, D], classes int [N])


def evaluate(
    training: Labelled, test: Labelled, shots: Iterable[int], seeds: int
) -> dict[int, dict[str, list[float]]]:
    """Accuracy on `test` after training on k pictures a class, drawn from `training`.

    Returns:
      {k: {"linear_probe": accuracy of each seed, "nearest_neighbours": …}}.

    Raises:
      UserError: a class has fewer than the largest k pictures, or none.
    """
    shots = sorted(shots)
    (vectors, labels), classes = training, int(max(training[1].max(), test[1].max())) + 1
    counts = np.bincount(labels, minlength=classes)
    if counts.min() < shots[-1]:
        raise UserError(
            f"class {counts.argmin()} has {counts.min()} training pictures, fewer than the "
            f"{shots[-1]} of --shots"
        )
    found = {k: {"linear_probe": [], "nearest_neighbours": []} for k in shots}
    for seed in range(seeds):
        # [classes, the most shots]: those of fewer shots are the first of them.
        drawn = _draw(labels, classes, shots[-1], seed)
        x = vectors[drawn].reshape(-1, vectors.shape[1])
        y = np.repeat(np.arange(classes), shots[-1])
        for k in shots:
            used = np.tile(np.arange(shots[-1]) < k, classes)
            held = np.tile(np.arange(shots[-1]) < _held_out(k), classes)
            scores = {
                "linear_probe": linear_probe(x, y, used, held, test[0], classes),
                "nearest_neighbours": nearest_neighbours(x[used], y[used], test[0], k, classes),
            }
            for name, score in scores.items():
                found[k][name].append(float((score.argmax(1) == test[1]).mean()))
    return found


def linear_probe(
    vectors: np.ndarray,
    labels: np.ndarray,
    used: np.ndarray,
    held_out: np.ndarray,
    test: np.ndarray,
    classes: int,
) -> np.ndarray:
    """Multinomial logistic regression by L-BFGS, its L2 penalty chosen on a held-out part.

    As Radford et al. 2021 (arXiv:2103.00020, appendix A.3), on vectors less their mean, scaled to
    a mean square of 1. The penalty is the one whose regression, without the held-out part, gives
    it the smallest cross-entropy; the last regression sees all that is used.

    Args:
      vectors: [N, D].
      labels: int [N].
      used, held_out: bool [N]: the training part, and what of it the penalty is chosen on.
      test: [M, D].

    Returns:
      logits float32 [M, classes].
    """
    mean = vectors[used].mean(0)
    scale = np.sqrt(np.square(vectors[used] - mean).mean()) + 1e-12
    x, test = ((part - mean) / scale for part in (vectors, test))
    penalty = _L2_OF_ONE
    if held_out.any():
        tried = _fit(x, labels, used & ~held_out, jnp.asarray(_L2), classes=classes)
        losses = [
            _cross_entropy(x @ w + b, labels)[held_out].mean() for w, b in zip(*tried, strict=True)
        ]
        penalty = _L2[int(np.argmin(losses))]
    (weights,), (bias,) = _fit(x, labels, used, jnp.asarray([penalty]), classes=classes)
    return np.asarray(test @ weights + bias)


def nearest_neighbours(
    vectors: np.ndarray, labels: np.ndarray, test: np.ndarray, count: int, classes: int
) -> np.ndarray:
    """Shares of the classes among the `count` nearest by cosine similarity, [M, classes]."""
    lengths = (np.linalg.norm(x, axis=1, keepdims=True) + 1e-12 for x in (test, vectors))
    similarities = test / next(lengths) @ (vectors / next(lengths)).T
    numbers = np.argsort(-similarities, axis=1, kind="stable")[:, :count]
    nearest = np.take_along_axis(similarities, numbers, 1)
    one_hot = csr_array(np.eye(classes, dtype=np.float32)[labels])
    return voting.vote(nearest, numbers, one_hot, _TEMPERATURE)


def _held_out(shots: int) -> int:
    """A quarter of a class's pictures, at least one, but not the only one."""
    return 0 if shots == 1 else max(1, shots // 4)


def _draw(labels: np.ndarray, classes: int, count: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    of_class = [np.flatnonzero(labels == one) for one in range(classes)]
    return np.stack([rng.permutation(places)[:count] for places in of_class])


@functools.partial(jax.jit, static_argnames="classes")
def _fit(
    x: jax.Array, labels: jax.Array, used: jax.Array, penalties: jax.Array, *, classes: int
) -> tuple[jax.Array, jax.Array]:
    """Weights [P, D, classes] and biases [P, classes], for each penalty."""

    def fit(penalty: jax.Array) -> tuple[jax.Array, jax.Array]:
        def loss(params: tuple[jax.Array, jax.Array]) -> jax.Array:
            weights, bias = params
            losses = _cross_entropy(x @ weights + bias, labels)
            mean = (losses * used).sum() / used.sum()
            return mean + penalty / 2 * jnp.square(weights).sum()

        optimizer = optax.lbfgs()
        value_and_grad = optax.value_and_grad_from_state(loss)

        def step(carry: tuple, _: None) -> tuple[tuple, None]:
            params, state = carry
            value, grad = value_and_grad(params, state=state)
            updates, state = optimizer.update(
                grad, state, params, value=value, grad=grad, value_fn=loss
            )
            return (optax.apply_updates(params, updates), state), None

        start = jnp.zeros((x.shape[1], classes)), jnp.zeros(classes)
        (params, _), _ = lax.scan(step, (start, optimizer.init(start)), None, _ITERATIONS)
        return params

    return jax.vmap(fit)(penalties)


def _cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels)
