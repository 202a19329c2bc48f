"""Losses that match images with their texts, each compared with all others of the global batch.

`(image [B, D], text [B, D], mask [B], log_scale [], bias []) -> (sum, weight)` with embeddings of
unit length, of which row i of one belongs to row i of the other, and logits
exp(log_scale) x·y + bias. `mask` is 0 for rows that take no part. The loss that gradients are taken
of is sum / weight. `config.task.loss` names one of the losses, or a function of the same signature
as `package.module:Name`; its keyword-only parameters are what `config.task.loss_kwargs` may set.

Within a mesh each device keeps its images and hands its texts on to the next device, once around
the ring (Zhai et al. 2023, arXiv:2303.15343, section 3.3): of D devices each holds (B / D)² logits
at a time, and one neighbor's texts. The gradient is computed on the way, in the same manner, so
that nothing but its own size is kept for the backward pass.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float

from jaxtag import registry
from jaxtag.distributed import mesh

ContrastiveLoss = Callable[..., tuple[jax.Array, jax.Array]]

MAX_SCALE = 100.0  # of CLIP's logits (Radford et al. 2021, arXiv:2103.00020, section 2.5)


def make_loss(name: str, kwargs: Mapping[str, Any]) -> ContrastiveLoss:
    """Returns the loss `name` with its keyword arguments bound.

    Raises:
        UsageError: the name or an argument is unknown, or an argument is of the wrong type.
    """
    loss = registry.resolve("contrastive_loss", name, "config.task.loss")
    registry.check_kwargs(loss, kwargs, "config.task.loss_kwargs", name)
    return functools.wraps(loss)(functools.partial(loss, **kwargs))


def siglip(
    image: Float[Array, "B D"],
    text: Float[Array, "B D"],
    mask: Float[Array, " B"],
    log_scale: Float[Array, ""],
    bias: Float[Array, ""],
    *,
    hard_negative_beta: float = 0.0,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Pairwise sigmoid loss (Zhai et al. 2023, arXiv:2303.15343, equation 1).

    The mean over images of the sum over texts of -log sigmoid(z logit), with z = 1 for an image's
    own text and -1 for others.

    Args:
        hard_negative_beta: as of `clip`; a negative pair has the mean of its two weights.
    """
    scale = jnp.exp(log_scale)
    return _weighted_sum(False, hard_negative_beta, image, text, mask, scale, bias)


def clip(
    image: Float[Array, "B D"],
    text: Float[Array, "B D"],
    mask: Float[Array, " B"],
    log_scale: Float[Array, ""],
    bias: Float[Array, ""],
    *,
    hard_negative_beta: float = 0.0,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Symmetric cross-entropy of each image's text among all texts and of each text's image.

    (Radford et al. 2021, arXiv:2103.00020, figure 3.) The scale is at most `MAX_SCALE`.

    Args:
        hard_negative_beta: weighs the n negatives of an image (and those of a text) by
            n softmax(beta logits), which is the importance sampling of Robinson et al. 2021
            (arXiv:2010.04592, section 3); 0 weighs them alike. Weights have no gradient.
    """
    scale = clamp_scale(log_scale)
    return _weighted_sum(True, hard_negative_beta, image, text, mask, scale, bias)


@jax.custom_vjp
def clamp_scale(log_scale: Float[Array, ""]) -> Float[Array, ""]:
    """exp(log_scale), at most `MAX_SCALE`, where only a gradient that lowers it passes."""
    return jnp.minimum(jnp.exp(log_scale), MAX_SCALE)


def _clamp_forward(log_scale: jax.Array) -> tuple[jax.Array, jax.Array]:
    return clamp_scale(log_scale), jnp.exp(log_scale)


def _clamp_backward(scale: jax.Array, gradient: jax.Array) -> tuple[jax.Array]:
    return (jnp.where((scale < MAX_SCALE) | (gradient > 0), gradient * scale, 0.0),)


clamp_scale.defvjp(_clamp_forward, _clamp_backward)


class _Side(NamedTuple):
    """Images or texts of one device.

    Attributes:
        vectors: float32 [R, D].
        present: bool [R], whether each takes part.
        log_hardness: log of the mean of exp(beta logits) over its negatives, float32 [R].
        log_sum: log of the sum of exp(logits) over all of the other side, float32 [R].
    """

    vectors: jax.Array
    present: jax.Array
    log_hardness: jax.Array
    log_sum: jax.Array


class _Block(NamedTuple):
    """The images of a device against the texts of one.

    Attributes:
        logits: float32 [I, T].
        own: bool [I, T], pairs that belong together.
        compared: bool [I, T], pairs of which both take part.
        image_log_weight, text_log_weight: of the pair among those of its image, and among those of
            its text; [I, T], or 0 where all weigh alike.
    """

    logits: jax.Array
    own: jax.Array
    compared: jax.Array
    image_log_weight: jax.Array | float
    text_log_weight: jax.Array | float


_Arguments = tuple[jax.Array, jax.Array, jax.Array, jax.Array, jax.Array]


def _weighted_sum(softmax: bool, beta: float, *arguments: jax.Array) -> tuple[jax.Array, jax.Array]:
    image, text, mask, scale, bias = (x.astype(jnp.float32) for x in arguments)
    total = _total(softmax, beta, (image, text, mask, scale, bias))
    return total, (mask > 0).sum().astype(jnp.float32)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _total(softmax: bool, beta: float, arguments: _Arguments) -> jax.Array:
    """The sum of the loss over all images of (image, text, mask, scale, bias)."""
    return _total_and_gradient(softmax, beta, arguments)[0]


def _total_and_gradient(
    softmax: bool, beta: float, arguments: _Arguments
) -> tuple[jax.Array, _Arguments]:
    """The sum, and its gradient: the cotangent of a sum is a number, by which it is multiplied."""
    on_device = functools.partial(_device_total_and_gradient, softmax, beta)
    if jax.sharding.get_abstract_mesh().empty:
        return on_device(*arguments)
    rows, whole = PartitionSpec(mesh.BATCH_AXES), PartitionSpec()
    specs = (rows, rows, rows, whole, whole)
    return jax.shard_map(on_device, in_specs=specs, out_specs=(whole, specs), check_vma=False)(
        *arguments
    )


def _scale_gradient(
    softmax: bool, beta: float, gradient: _Arguments, cotangent: jax.Array
) -> tuple[_Arguments]:
    del softmax, beta
    return (jax.tree.map(lambda g: cotangent * g, gradient),)


_total.defvjp(_total_and_gradient, _scale_gradient)


def _device_total_and_gradient(
    softmax: bool,
    beta: float,
    image: jax.Array,
    text: jax.Array,
    mask: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
) -> tuple[jax.Array, _Arguments]:
    zeros = jnp.zeros(len(mask))
    images, texts = (_Side(vectors, mask > 0, zeros, zeros) for vectors in (image, text))
    block = functools.partial(_block, beta=beta, scale=scale, bias=bias)
    if beta:
        log_count = jnp.log(jnp.maximum(_sum_over_devices(mask > 0) - 1, 1))
        sums = _log_sums(images, texts, lambda *sides: _negatives(block(*sides), beta))
        images, texts = (
            side._replace(log_hardness=jnp.where(jnp.isfinite(total), total - log_count, 0.0))
            for side, total in zip((images, texts), sums, strict=True)
        )
    if softmax:
        sums = _log_sums(images, texts, lambda *sides: _weighted_logits(block(*sides)))
        images, texts = (
            side._replace(log_sum=jnp.where(side.present, total, 0.0))
            for side, total in zip((images, texts), sums, strict=True)
        )
    block_loss = _softmax_surrogate if softmax else _sigmoid_loss

    def step(sums: Any, guest: Any, is_own: jax.Array) -> Any:
        texts, text_gradient = guest

        def value(image: jax.Array, text: jax.Array, scale: jax.Array, bias: jax.Array) -> Any:
            sides = images._replace(vectors=image), texts._replace(vectors=text)
            return block_loss(*sides, _block(*sides, is_own, beta, scale, bias))

        total, gradients = jax.value_and_grad(value, (0, 1, 2, 3))(
            images.vectors, texts.vectors, scale, bias
        )
        image_gradient, added, *others = gradients
        sums = jax.tree.map(jnp.add, sums, (total, image_gradient, *others))
        return sums, (texts, text_gradient + added)

    zero = jnp.zeros(())
    sums, (_, text_gradient) = _around_ring(
        step, (zero, jnp.zeros_like(image), zero, zero), (texts, jnp.zeros_like(text))
    )
    total, image_gradient, *others = sums
    if softmax:
        own = scale * (image * text).sum(1) + bias
        total = jnp.where(mask > 0, (images.log_sum + texts.log_sum) / 2 - own, 0.0)
    gradient = image_gradient, text_gradient, jnp.zeros_like(mask)
    return _sum_over_devices(total), (*gradient, *map(_sum_over_devices, others))


def _sigmoid_loss(images: _Side, texts: _Side, block: _Block) -> jax.Array:
    """The pairwise sigmoid loss of a block."""
    del images, texts
    weight = (jnp.exp(block.image_log_weight) + jnp.exp(block.text_log_weight)) / 2
    losses = jax.nn.softplus(jnp.where(block.own, -block.logits, block.logits))
    return jnp.where(block.compared, weight * losses, 0.0).sum()


def _softmax_surrogate(images: _Side, texts: _Side, block: _Block) -> jax.Array:
    """A sum with the gradient of the softmax loss, whose value is of no use."""
    of_image, of_text = jax.lax.stop_gradient(_weighted_logits(block))
    probability = jnp.exp(of_image - images.log_sum[:, None]) + jnp.exp(of_text - texts.log_sum)
    return ((probability / 2 - (block.own & block.compared)) * block.logits).sum()


def _block(
    images: _Side,
    texts: _Side,
    is_own: jax.Array,
    beta: float,
    scale: jax.Array,
    bias: jax.Array,
) -> _Block:
    """The pairs of a device's images and of texts that are its own or another's."""
    products = jnp.matmul(images.vectors, texts.vectors.T, precision="highest")
    logits = scale * products + bias
    own = jnp.eye(len(logits), dtype=bool) & is_own
    compared = images.present[:, None] & texts.present
    if not beta:
        return _Block(logits, own, compared, 0.0, 0.0)
    of_image = jnp.where(own, 0.0, beta * logits - images.log_hardness[:, None])
    of_text = jnp.where(own, 0.0, beta * logits - texts.log_hardness)
    return _Block(logits, own, compared, *jax.lax.stop_gradient((of_image, of_text)))


def _negatives(block: _Block, beta: float) -> tuple[jax.Array, jax.Array]:
    """The exponents of the weights of negatives, for images and for texts."""
    exponents = jnp.where(block.compared & ~block.own, beta * block.logits, -jnp.inf)
    return exponents, exponents


def _weighted_logits(block: _Block) -> tuple[jax.Array, jax.Array]:
    """The logits of the softmax over the texts of an image, and over the images of a text."""
    return (
        jnp.where(block.compared, block.logits + block.image_log_weight, -jnp.inf),
        jnp.where(block.compared, block.logits + block.text_log_weight, -jnp.inf),
    )


def _log_sums(
    images: _Side, texts: _Side, exponents: Callable[..., tuple[jax.Array, jax.Array]]
) -> tuple[jax.Array, jax.Array]:
    """log of the sums of exp(exponents) over all texts for each image, and over all images.

    Args:
        exponents: (images, texts, whether they are of one device) -> those of an image, to be
            summed along axis 1, and those of a text, along axis 0.
    """

    def step(of_images: jax.Array, guest: Any, is_own: jax.Array) -> Any:
        texts, of_texts = guest
        of_image, of_text = exponents(images, texts, is_own)
        of_images = jnp.logaddexp(of_images, jax.nn.logsumexp(of_image, 1))
        of_texts = jnp.logaddexp(of_texts, jax.nn.logsumexp(of_text, 0))
        return of_images, (texts, of_texts)

    nothing = jnp.full(len(images.present), -jnp.inf)
    of_images, (_, of_texts) = _around_ring(step, nothing, (texts, nothing))
    return of_images, of_texts


def _around_ring(step: Callable[..., Any], state: Any, guest: Any) -> Any:
    """Applies `step(state, guest, is_own) -> (state, guest)` to the guest of each device in turn.

    After each step a guest goes on to the next device; at the end each is back where it started.
    """
    devices = mesh.num_batch_shards()
    if devices == 1:
        return step(state, guest, jnp.asarray(True))
    ring = [(device, (device + 1) % devices) for device in range(devices)]

    def turn(carry: Any, number: jax.Array) -> Any:
        state, guest = step(*carry, number == 0)
        return (state, jax.lax.ppermute(guest, mesh.BATCH_AXES, ring)), None

    return jax.lax.scan(turn, (state, guest), jnp.arange(devices))[0]


def _sum_over_devices(values: jax.Array) -> jax.Array:
    total = values.sum(dtype=jnp.float32)
    if jax.sharding.get_abstract_mesh().empty:
        return total
    return jax.lax.psum(total, mesh.BATCH_AXES)
