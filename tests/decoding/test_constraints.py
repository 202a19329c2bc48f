"""Constraints, groups of beams and several captions against a plain search over Python lists."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from drawn_captioner import EOS, LENGTH, PAD, drawn_params, model, stored

from jaxtag.decoding.constraints import NO_SCORE, constrain
from jaxtag.decoding.generate import generate
from jaxtag.decoding.generation_config import GenerationConfig

SEEDS = (1, 4)


@cache
def forward(seed: int):
    """Tokens [B, K, T] to the log-probabilities of what follows each, by the whole model."""
    variables, images = {"params": drawn_params(seed)}, stored()[0]["images"]
    return jax.jit(
        lambda tokens: jax.nn.log_softmax(model().apply(variables, images, tokens)["logits"])
    )


def following(seed: int, image: int, hypotheses: list[list[int]]) -> np.ndarray:
    """Log-probabilities [K, V] of what follows hypotheses of one length."""
    tokens = np.full((len(stored()[0]["images"]), len(hypotheses), LENGTH), PAD)
    tokens[image, :, : len(hypotheses[0])] = hypotheses
    scores = forward(seed)(jnp.asarray(tokens))
    return np.asarray(scores[image, :, len(hypotheses[0]) - 1], np.float64)


def constrained(scores: np.ndarray, past: list[int], settings: dict) -> np.ndarray:
    """As transformers' processors of scores change them, for one hypothesis."""
    scores = scores.copy()
    for token in set(past):
        scores[token] *= settings.get("repetition_penalty", 1.0)  # log-probabilities are negative
    size = settings.get("no_repeat_ngram_size", 0)
    for start in range(len(past) - size + 1) if size else ():
        if past[start : start + size - 1] == past[len(past) - size + 1 :]:
            scores[past[start + size - 1]] = NO_SCORE
    if len(past) - 1 < settings.get("min_new_tokens", 0):
        scores[EOS] = NO_SCORE
    return scores


def plain_search(seed: int, image: int, settings: dict) -> list[tuple[float, list[int]]]:
    """The captions of an image and their scores, by groups of beams with early stopping."""
    groups = settings.get("num_beam_groups", 1)
    width = settings["beam_size"] // groups
    running = [[(0.0, [1])] for _ in range(groups)]
    finished: list[list[tuple[float, list[int]]]] = [[] for _ in range(groups)]
    for length in range(1, LENGTH):
        taken: list[int] = []
        for group in range(groups):
            scores = following(seed, image, [tokens for _, tokens in running[group]])
            candidates = []
            for (total, tokens), row in zip(running[group], scores, strict=True):
                row = constrained(row, tokens, settings)
                for token in taken:
                    row[token] -= settings["diversity_penalty"]
                candidates += [(total + score, [*tokens, t]) for t, score in enumerate(row)]
            best = sorted(candidates, key=lambda item: -item[0])[: 2 * width]
            ends = [tokens[-1] == EOS or length == LENGTH - 1 for _, tokens in best]
            if len(finished[group]) < width:
                firsts = zip(best[:width], ends[:width], strict=True)
                new = [(score / length, tokens) for (score, tokens), end in firsts if end]
                finished[group] = sorted(finished[group] + new, key=lambda item: -item[0])[:width]
            running[group] = [(s, tokens) for s, tokens in best if tokens[-1] != EOS][:width]
            taken += [tokens[-1] for _, tokens in running[group]]
        if all(len(own) >= width for own in finished):
            break
    count = settings.get("num_return_sequences", 1)
    found = finished[0] if groups == 1 else finished[0][:1]
    for own in finished[1:]:
        new = [item for item in own if item[1] not in [tokens for _, tokens in found]]
        found = [*found, (new or own)[0]]
    return sorted(found, key=lambda item: -item[0])[:count]


CASES = {
    "several": {"beam_size": 3, "num_return_sequences": 3},
    "groups": {
        "beam_size": 4,
        "num_beam_groups": 2,
        "diversity_penalty": 0.8,
        "num_return_sequences": 2,
    },
    "groups of one": {
        "beam_size": 3,
        "num_beam_groups": 3,
        "diversity_penalty": 0.5,
        "num_return_sequences": 3,
        "no_repeat_ngram_size": 2,
    },
    "all": {
        "beam_size": 2,
        "no_repeat_ngram_size": 2,
        "repetition_penalty": 1.3,
        "min_new_tokens": 6,
    },
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("seed", [SEEDS[0], pytest.param(SEEDS[1], marks=pytest.mark.slow)])
def test_beams_equal_a_plain_search(case: str, seed: int) -> None:
    settings = CASES[case]
    images = stored()[0]["images"]
    output = generate(
        model(), {"params": drawn_params(seed)}, images,
        method="beam", max_length=LENGTH, early_stopping=True, **settings,
    )  # fmt: skip
    count = settings.get("num_return_sequences", 1)
    tokens = np.asarray(output["tokens"]).reshape(len(images), count, LENGTH)
    scores = np.asarray(output["scores"]).reshape(len(images), count)
    for image in range(0, len(images), 3):
        for n, (score, expected) in enumerate(plain_search(seed, image, settings)):
            np.testing.assert_array_equal(tokens[image, n, : len(expected)], expected)
            assert (tokens[image, n, len(expected) :] == PAD).all()
            assert scores[image, n] == pytest.approx(score, abs=1e-4)


def test_greedy_with_constraints_equals_a_plain_loop() -> None:
    settings = {"no_repeat_ngram_size": 1, "min_new_tokens": 4}
    images = stored()[0]["images"]
    output = generate(model(), {"params": drawn_params(2)}, images, max_length=LENGTH, **settings)
    free = generate(model(), {"params": drawn_params(2)}, images, max_length=LENGTH)
    assert (np.asarray(output["tokens"]) != np.asarray(free["tokens"])).any()
    for image in range(len(images)):
        past = [1]
        while len(past) < LENGTH and (past[-1] != EOS or len(past) == 1):
            scores = following(2, image, [past])[0]
            past.append(int(np.argmax(constrained(scores, past, settings))))
        np.testing.assert_array_equal(output["tokens"][image, : len(past)], past)
        assert len(set(past)) == len(past) and len(past) >= 6


def test_several_samples_are_drawn_apart_and_the_likeliest_comes_first() -> None:
    images = stored()[0]["images"]
    output = generate(
        model(), {"params": drawn_params(1)}, images, rng=jax.random.key(0),
        method="sample", max_length=LENGTH, num_return_sequences=5,
    )  # fmt: skip
    assert output["tokens"].shape == (len(images), 5, LENGTH)
    assert (np.diff(output["scores"], axis=1) <= 0).all()
    assert all(len(np.unique(tokens, axis=0)) > 1 for tokens in output["tokens"])


@pytest.mark.parametrize("method", ["greedy", "beam"])
def test_token_scores_add_up(method: str) -> None:
    images, variables = stored()[0]["images"], {"params": drawn_params(3)}
    settings = {"method": method, "max_length": LENGTH, "beam_size": 2, "length_penalty": 0.0}
    output = generate(model(), variables, images, output_token_scores=True, **settings)
    assert output["token_scores"].shape == output["tokens"].shape
    written = np.asarray(output["tokens"]) != PAD
    total = (output["token_scores"] * written).sum(-1)
    np.testing.assert_allclose(total, output["scores"], atol=1e-4)


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        (
            {"method": "beam", "beam_size": 4, "num_beam_groups": 3},
            "must divide beam_size, 4; got 3",
        ),
        ({"method": "greedy", "num_return_sequences": 2}, r"must lie in \[1, 1\]"),
        ({"method": "beam", "beam_size": 4, "num_return_sequences": 5}, r"must lie in \[1, 4\]"),
        (
            {"method": "beam", "beam_size": 4, "num_beam_groups": 2, "num_return_sequences": 3},
            r"must lie in \[1, 2\]",
        ),
        ({"repetition_penalty": 0.0}, "repetition_penalty must be above 0"),
    ],
)
def test_wrong_settings(settings: dict, complaint: str) -> None:
    images = stored()[0]["images"]
    with pytest.raises(ValueError, match=complaint):
        generate(model(), {"params": drawn_params(0)}, images, max_length=LENGTH, **settings)


def test_the_end_may_come_after_so_many_new_tokens() -> None:
    """Counted after the prompt of each image: here bos alone, and bos with two tokens."""
    config = GenerationConfig(min_new_tokens=3, max_length=LENGTH, eos_id=EOS)
    scores, tokens = jnp.zeros((2, 1, 5)), jnp.zeros((2, 1, LENGTH), jnp.int32)
    lengths = jnp.array([1, 3])
    for position in range(8):
        allowed = constrain(scores, tokens, jnp.int32(position), lengths, config)[:, 0]
        may_end = np.array([position >= 3, position >= 5])
        np.testing.assert_array_equal(allowed[:, EOS] == 0, may_end)
        assert (np.delete(np.asarray(allowed), EOS, axis=1) == 0).all()
