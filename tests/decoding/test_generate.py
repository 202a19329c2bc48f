"""Generation: the tokens of transformers' `generate`, and what it promises besides."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from drawn_captioner import CASES, EOS, LENGTH, PAD, drawn_params, model, stored
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxtag.decoding import generate as generation
from jaxtag.decoding.generate import generate
from jaxtag.decoding.generation_config import GenerationConfig


def from_transformers(settings: dict) -> dict:
    """Settings of transformers' `generate` as fields of `GenerationConfig`."""
    settings = dict(settings)
    beams = settings.pop("num_beams")
    method = "beam" if beams > 1 else "greedy"
    return {"method": method, "beam_size": beams, "max_length": LENGTH, **settings}


def test_cases_are_varied() -> None:
    tensors, notes = stored()
    assert len(json.loads(notes["settings"])) == CASES
    assert tensors["certain"].mean() > 0.98
    ends = (tensors["tokens"] == EOS).any(-1)
    assert 0.2 < ends.mean() < 0.99
    assert len(np.unique((tensors["tokens"] != PAD).sum(-1))) >= 10


@pytest.mark.parametrize("case", range(CASES))
def test_tokens_equal_transformers(case: int) -> None:
    tensors, notes = stored()
    settings = from_transformers(json.loads(notes["settings"])[case])
    for seed in range(tensors["tokens"].shape[1]):
        certain = tensors["certain"][case, seed].astype(bool)
        variables = {"params": drawn_params(seed)}
        output = generate(model(), variables, tensors["images"], **settings)
        expected = tensors["tokens"][case, seed]
        assert output["tokens"].dtype == jnp.int32
        np.testing.assert_array_equal(output["tokens"][certain], expected[certain], str(seed))
        if settings["method"] == "beam":
            scores = tensors["scores"][case, seed][certain]
            np.testing.assert_allclose(output["scores"][certain], scores, rtol=1e-4, atol=1e-4)


def test_scanned_layers_give_the_same_tokens() -> None:
    images = stored()[0]["images"]
    for method in ("greedy", "beam"):
        unrolled, scanned = (
            generate(model(scan=s), {"params": drawn_params(3, s)}, images, method=method,
                     max_length=LENGTH)["tokens"]
            for s in (False, True)
        )  # fmt: skip
        np.testing.assert_array_equal(unrolled, scanned)


def test_greedy_follows_the_training_forward_pass() -> None:
    """Each token is the likeliest after its past by the full model, and scores add up."""
    images, variables = stored()[0]["images"], {"params": drawn_params(1)}
    output = generate(model(), variables, images, max_length=LENGTH)
    tokens = output["tokens"]
    logits = model().apply(variables, images, tokens[:, None, :-1])["logits"][:, 0]
    written = np.asarray(tokens[:, 1:] != PAD)
    np.testing.assert_array_equal(logits.argmax(-1)[written], tokens[:, 1:][written])
    log_probabilities = jax.nn.log_softmax(logits)
    chosen = jnp.take_along_axis(log_probabilities, tokens[:, 1:, None], -1)[..., 0]
    np.testing.assert_allclose(output["scores"], (chosen * written).sum(-1), atol=1e-4)


@pytest.mark.slow  # the default is in tests/inference/test_caption_families.py
@pytest.mark.parametrize("method", ["greedy", "beam"])
def test_a_prompt_of_ones_own_words_changes_nothing(method: str) -> None:
    """The first words of each caption, some of one word, some of none."""
    images, variables = stored()[0]["images"], {"params": drawn_params(2)}
    settings = {"method": method, "max_length": LENGTH, "beam_size": 2}
    alone = generate(model(), variables, images, **settings)
    prompts = np.asarray(alone["tokens"][:, 1:4]).copy()
    prompts[0] = prompts[1, 1:] = -1
    prompts[(prompts == EOS).any(1)] = -1  # these end sooner
    assert (prompts >= 0).all(1).any()
    again = generate(model(), variables, images, prompts=prompts, **settings)
    np.testing.assert_array_equal(again["tokens"][0], alone["tokens"][0])
    for row, prompt in zip(np.asarray(again["tokens"]), prompts, strict=True):
        given = prompt[prompt >= 0]
        np.testing.assert_array_equal(row[1 : 1 + len(given)], given)
    if method == "greedy":
        np.testing.assert_array_equal(again["tokens"], alone["tokens"])
    with pytest.raises(ValueError, match="leave no room"):
        generate(model(), variables, images, prompts=np.zeros((6, LENGTH - 1), int), **settings)


@pytest.mark.parametrize(
    "method", [pytest.param("greedy", marks=pytest.mark.slow), "beam", "sample"]
)
def test_a_mesh_gives_the_same_tokens(method: str) -> None:
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    images = np.random.RandomState(0).standard_normal((16, 16, 16, 3)).astype(np.float32)
    variables = {"params": drawn_params(5)}
    settings = {"method": method, "max_length": LENGTH, "rng": jax.random.key(1)}
    alone = generate(model(), variables, images, **settings)
    sharded = jax.device_put(images, NamedSharding(mesh, P("data")))
    everywhere = jax.device_put(variables, NamedSharding(mesh, P()))
    spread = generate(model(), everywhere, sharded, **settings)
    assert len(spread["tokens"].sharding.device_set) == 8
    np.testing.assert_array_equal(alone["tokens"], spread["tokens"])
    np.testing.assert_allclose(alone["scores"], spread["scores"], rtol=1e-4)


def test_a_second_batch_compiles_nothing() -> None:
    images, variables = stored()[0]["images"], {"params": drawn_params(2)}
    generate(model(), variables, images, max_length=LENGTH)
    before = generation._generate._cache_size()
    for seed in (6, 7):
        generate(model(), {"params": drawn_params(seed)}, images + 1, max_length=LENGTH)
    assert generation._generate._cache_size() == before


def test_stops_when_all_are_done() -> None:
    """The loop writes nothing after the last end: its cache stays empty there."""
    images, params = stored()[0]["images"], drawn_params(0)
    params = jax.tree.map(np.array, params)
    params["decoder"]["token_embed"][EOS] = 1e3 * params["decoder"]["norm"]["bias"]
    params["decoder"]["norm"]["scale"][:] = 0.0
    for method in ("greedy", "beam", "sample"):
        output = generate(
            model(), {"params": params}, images, method=method, max_length=LENGTH,
            rng=jax.random.key(0),
        )  # fmt: skip
        expected = [[1, EOS] + [PAD] * (LENGTH - 2)] * len(images)
        np.testing.assert_array_equal(output["tokens"], expected)


def test_bfloat16_generates() -> None:
    images, variables = stored()[0]["images"], {"params": drawn_params(2)}
    half = model(dtype=jnp.bfloat16)
    for method in ("greedy", "beam"):
        output = generate(half, variables, images, method=method, max_length=LENGTH)
        assert np.isfinite(output["scores"]).all()


def test_shaped_distribution() -> None:
    logits = jnp.log(jnp.array([[0.5, 0.3, 0.15, 0.05], [0.05, 0.15, 0.3, 0.5]]))
    top_k = generation.warp_logits(logits, GenerationConfig(method="sample", top_k=2))
    np.testing.assert_array_equal(np.isfinite(top_k), [[1, 1, 0, 0], [0, 0, 1, 1]])
    top_p = generation.warp_logits(logits, GenerationConfig(method="sample", top_p=0.6))
    np.testing.assert_array_equal(np.isfinite(top_p), [[1, 1, 0, 0], [0, 0, 1, 1]])
    tiny = generation.warp_logits(logits, GenerationConfig(method="sample", top_p=1e-6))
    np.testing.assert_array_equal(np.isfinite(tiny), [[1, 0, 0, 0], [0, 0, 0, 1]])
    cold = generation.warp_logits(logits, GenerationConfig(method="sample", temperature=0.5))
    np.testing.assert_allclose(cold, logits / 0.5)


def test_samples_follow_the_distribution() -> None:
    """First tokens of many draws against the model's own probabilities; top_k=1 is greedy."""
    image, variables = stored()[0]["images"][:1], {"params": drawn_params(4)}
    logits = model().apply(variables, image, jnp.ones((1, 1, 1), jnp.int32))["logits"][0, 0, 0]
    images = jnp.repeat(image, 4000, axis=0)
    drawn = generate(
        model(), variables, images, method="sample", max_length=2, rng=jax.random.key(3)
    )["tokens"][:, 1]
    shares = np.bincount(drawn, minlength=29) / len(drawn)
    np.testing.assert_allclose(shares, jax.nn.softmax(logits), atol=0.04)
    assert len(np.unique(drawn)) > 1
    images = stored()[0]["images"]
    one = generate(model(), variables, images, method="sample", top_k=1, max_length=LENGTH,
                   rng=jax.random.key(3))  # fmt: skip
    greedy = generate(model(), variables, images, max_length=LENGTH)
    np.testing.assert_array_equal(one["tokens"], greedy["tokens"])


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"method": "best"}, "method must be one of greedy, beam, sample"),
        ({"max_length": LENGTH + 1}, "more than the decoder's positions"),
        ({"method": "beam", "beam_size": 15, "max_length": 4}, "half of the vocabulary"),
        ({"method": "sample", "max_length": 4}, "needs rng"),
        ({"method": "sample", "top_p": 0.0}, "top_p must lie in"),
        ({"early_stopping": "maybe"}, "early_stopping must be"),
    ],
)
def test_wrong_settings(settings: dict, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        generate(model(), {"params": drawn_params(0)}, stored()[0]["images"], **settings)
