"""A run of jaxtag 0.1, stopped in the middle: resumed, evaluated and loaded by this version.

`references/run_0_1.zip` holds the work directory, the prepared data and what 0.1 made of the rest.
"""

import zipfile
from pathlib import Path

import numpy as np
import pytest
from calling import call
from flax.traverse_util import flatten_dict
from safetensors.numpy import load_file
from stored import REFERENCES

import jaxtag
from jaxtag.config import serialization
from jaxtag.errors import UserError
from jaxtag.training import run_config

pytestmark = pytest.mark.usefixtures("one_device", "fused_as_usual")


@pytest.fixture
def old(tmp_path, monkeypatch) -> Path:
    """A copy of the folder; its configuration names the data as `data`, relative to it."""
    with zipfile.ZipFile(REFERENCES / "run_0_1.zip") as archive:
        archive.extractall(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_its_configuration_reads_as_todays(old) -> None:
    config = serialization.load(old / "run")
    assert config.task.TASK == "classify" and config.task.label_smoothing == 0.1
    assert config.model.backbone == "airbench" and config.model.kwargs == {"widths": (2,)}
    assert config.optimizer.kwargs == {"momentum": 0.9} and config.optimizer.min_lr_ratio == 0.1
    assert config.evaluation.tta_flip and config.data.crop_scale == (1.0, 1.0)
    assert serialization.from_json(serialization.to_json(config)) == config


def test_it_goes_on_to_the_parameters_that_0_1_reached(old) -> None:
    config = serialization.load(old / "run")
    result = jaxtag.fit(config, old / "run")
    assert int(result.state.step) == 4
    reached = {"params": result.state.params, "ema": result.state.ema["params"]}
    expected = load_file(old / "final.safetensors")
    for name, value in flatten_dict(reached, sep="/").items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-6, atol=1e-7, err_msg=name)


def test_it_keeps_its_order_of_records(old) -> None:
    config = serialization.load(old / "run")
    assert config.data.shuffle == "stored"
    config.data.shuffle = None  # as a configuration of today leaves it
    resolved = run_config.resolve_run_config(config, old / "run")
    assert resolved.data.shuffle == "stored"
    assert serialization.load(old / "run").data.shuffle == "stored"
    config.data.shuffle = "full"
    with pytest.raises(UserError, match=r"data\.shuffle: trained with 'stored', now 'full'"):
        run_config.resolve_run_config(config, old / "run")


def test_it_is_evaluated_and_used(old) -> None:
    assert call("evaluate", "--workdir=run").status == 0
    done = call("evaluate", "--workdir=run", "--config.evaluation.mirror=False")  # a name of 0.1
    assert done.status == 0 and done.last["step"] == 2
    predictor = jaxtag.load("run")
    assert {tag for tag, _ in predictor(np.zeros((8, 8, 3), np.uint8)).tags} == {"green", "red"}
