"""Self-critical training: rewards, advantages and loss, against a plain reading of the paper."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from tiny import tiny_config

import jaxtag
from jaxtag.config import checks
from jaxtag.data.sources import as_data_source
from jaxtag.data.tokenizer import PAD, Tokenizer
from jaxtag.errors import UsageError
from jaxtag.metrics.captioning.cider import cider
from jaxtag.tasks.caption import self_critical
from jaxtag.training import run_data
from jaxtag.training.callbacks import Callback

CAPTIONS = [
    ["a dog runs", "the dog runs fast", "a brown dog"],
    ["a cat sleeps", "the cat sleeps on a bed"],
    ["two men walk", "men walk in a street", "two people walk"],
]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train([caption for group in CAPTIONS for caption in group], 300)


@pytest.fixture(scope="module", autouse=True)
def on_one_device(one_device):
    """Small programs, which take longer to split than to run."""


def test_rewards_are_cider_d_with_the_end_as_a_word(tokenizer) -> None:
    source = as_data_source([{"image": b"", "captions": group} for group in CAPTIONS])
    reward = self_critical.CiderReward(source, tokenizer)
    texts = ["a dog runs", "A cat sleeps.", "two men", "a dog"]
    tokens = tokenizer.encode(texts, 12)
    unfinished = np.where(tokens[1:2] == tokenizer.eos_id, PAD, tokens[1:2])
    images = np.array([0, 1, 2, -1, 1])
    values = reward(np.concatenate([tokens, unfinished]), images)
    groups = [[f"{caption} <end>" for caption in group] for group in CAPTIONS]
    for row, text in ((0, "a dog runs <end>"), (1, "a cat sleeps <end>"), (2, "two men <end>")):
        hypotheses = [text if image == row else "" for image in range(3)]
        assert values[row] == pytest.approx(cider(hypotheses, groups)["d"][row], rel=1e-5)
    assert values[3] == 0.0  # padding
    assert 0 < values[4] < values[1]  # it never ended


def test_an_advantage_is_the_reward_less_the_mean_of_the_others() -> None:
    rewards = np.random.default_rng(0).random((4, 3)).astype(np.float32)
    values = self_critical.advantages(rewards)
    for row in range(4):
        for column in range(3):
            others = [rewards[row, other] for other in range(3) if other != column]
            expected = rewards[row, column] - sum(others) / 2
            assert values[row, column] == pytest.approx(expected, abs=1e-6)
    np.testing.assert_allclose(values.sum(1), 0, atol=1e-6)


@pytest.fixture(scope="module")
def started(tiny_data, tmp_path_factory):
    """A configuration that goes on from a short run of cross-entropy, and its first run."""
    config = tiny_config(tiny_data, total_steps=2, evaluate_every=2, metric_writers=("jsonl",))
    config.data.flip, config.data.crop_scale = False, (1.0, 1.0)
    start = tmp_path_factory.mktemp("start")
    jaxtag.fit(config, start)
    task = dataclasses.replace(config.task, self_critical_samples=2, label_smoothing=0.0)
    config = dataclasses.replace(
        config, task=task, initial_checkpoint=str(start), total_steps=4, evaluate_every=4
    )
    config.log_every = 1
    workdir = tmp_path_factory.mktemp("self_critical")
    return config, workdir, jaxtag.fit(config, workdir)


def test_samples_have_the_log_probabilities_of_teacher_forcing(started) -> None:
    config, workdir, result = started
    task = run_data.task_class(config)(config, run_data.load_vocabulary(config, workdir))
    rng = np.random.default_rng(0)
    batch = {
        "image": rng.integers(0, 256, (4, 32, 32, 3), np.uint8),
        "mask": np.array([1, 1, 1, 0], np.float32),
    }
    sample = task.make_generate(method="sample", temperature=1.0, top_k=0, top_p=1.0)
    drawn = sample(result.state.variables, batch, jax.random.key(5))
    batch["tokens"] = np.asarray(drawn["tokens"])[:, None]
    forced = task.loss(result.state.variables, batch, None).loss
    np.testing.assert_allclose(-forced[:3], drawn["scores"][:3], rtol=1e-5)
    batch["advantage"] = np.array([[0.5], [-2.0], [0.0], [3.0]], np.float32)
    batch["reward"] = np.array([[1.0], [2.0], [6.0], [9.0]], np.float32)
    weighted = task.loss(result.state.variables, batch, None)
    scores = np.asarray(drawn["scores"])
    np.testing.assert_allclose(weighted.loss, [-0.5 * scores[0], 2 * scores[1], 0, 0], rtol=1e-5)
    total, count = weighted.metrics["reward"]
    assert total / count == pytest.approx(3.0)


def test_it_starts_from_the_run_and_goes_on_bit_for_bit(started, tmp_path, tiny_data) -> None:
    config, workdir, unbroken = started
    start = jaxtag.load(config.initial_checkpoint)
    assert (workdir / "tokenizer.json").read_bytes() == (
        start.workdir / "tokenizer.json"
    ).read_bytes()

    class Stopped(Exception):
        pass

    class Stop(Callback):
        def on_step(self, step, state, outputs):
            if step == 3:
                raise Stopped

    broken = tmp_path / "broken"
    with pytest.raises(Stopped):
        jaxtag.fit(config, broken, callbacks=[Stop()])
    resumed = jaxtag.fit(config, broken)
    jax.tree.map(np.testing.assert_array_equal, unbroken.state.params, resumed.state.params)
    entries = [json.loads(line) for line in (workdir / "metrics.jsonl").open()]
    assert any("reward" in entry for entry in entries)
    change = jax.tree.map(
        lambda a, b: float(np.abs(a - b).max()), unbroken.state.params, start.variables["params"]
    )
    assert 0 < max(jax.tree.leaves(change)) < 0.1


def test_one_sample_has_no_others_to_be_compared_with(tiny_data) -> None:
    config = tiny_config(tiny_data)
    config.task.self_critical_samples = 1
    with pytest.raises(UsageError, match=r"self_critical_samples = 1: .* draw at least 2"):
        checks.check(config)
