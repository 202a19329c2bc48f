"""The learning-rate finder: a plot, and a suggestion that trains."""

import json
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from calling import call

from jaxtag.training import lr_finder

pytestmark = pytest.mark.usefixtures("one_device")


def test_the_steepest_fall_is_suggested() -> None:
    rates = np.geomspace(1e-6, 1, 100).tolist()
    logs = np.log10(rates)
    losses = (3 - 2 / (1 + np.exp(-4 * (logs + 3))) + np.exp(6 * (logs + 0.5))).tolist()
    assert lr_finder.steepest_rate(rates, losses) == pytest.approx(1e-3, rel=0.2)


def test_the_command_leaves_a_plot_and_a_suggestion(own_config, tmp_path) -> None:
    done = call("find_lr", f"--config={own_config}", f"--output={tmp_path}/lr", "--num_steps=30")
    assert done.status == 0, done.err
    saved = json.loads((tmp_path / "lr/lr.json").read_text())
    assert done.last == {"suggested_learning_rate": saved["suggested_learning_rate"]}
    assert 1e-6 <= saved["suggested_learning_rate"] <= 1.0
    ratios = np.array(saved["rates"][1:]) / saved["rates"][:-1]
    np.testing.assert_allclose(ratios, 1e6 ** (1 / 29), rtol=1e-6)
    assert ElementTree.parse(tmp_path / "lr/lr.svg").getroot().tag.endswith("svg")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--output is missing"),
        (["--output={tmp}", "--min_lr=1", "--max_lr=0.1"], "must be above --min_lr"),
        (["--output={tmp}", "--num_steps=3"], "num_steps"),
    ],
)
def test_wrong_use_is_one_line(own_config, tmp_path, arguments, message) -> None:
    flags = [argument.format(tmp=tmp_path) for argument in arguments]
    done = call("find_lr", f"--config={own_config}", *flags)
    assert done.status == 2 and message in done.err and done.err.count("\n") == 1
