"""Waiting for data: one line with the setting that ends it, or workers that keep up."""

import os

import pytest

from jaxtag.config import Config, checks
from jaxtag.config.schema import DataConfig
from jaxtag.errors import UserError
from jaxtag.training.input_monitor import InputMonitor


class Iterator:
    """Batches that take 6 seconds of a core to decode."""

    can_have_workers = True

    def __init__(self):
        self.workers = []

    def measure_decoding(self) -> float:
        return 6.0

    def restart(self, num_workers: int) -> None:
        self.workers.append(num_workers)


@pytest.fixture
def cores(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)))


def watch(num_workers, *waits, seconds=2.0):
    lines, iterator = [], Iterator()
    monitor = InputMonitor(DataConfig(num_workers=num_workers), iterator, lines.append)
    for wait in waits:
        monitor.update({"data_wait_fraction": wait, "seconds_per_step": seconds})
    return lines, iterator.workers


def test_the_first_line_and_short_waits_say_nothing(cores):
    assert watch(0, 0.9, 0.05, 0.0) == ([], [])


def test_waiting_is_reported_once_with_the_setting(cores):
    lines, workers = watch(4, 0.9, 0.5, 0.5)
    assert lines == [
        "the devices wait 50% of the time for data: a batch takes 6 s of a core, a step 1 s: set "
        "config.data.num_workers=8, or auto"
    ]
    assert workers == []


def test_auto_starts_the_workers_that_decoding_needs(cores):
    lines, workers = watch("auto", 0.9, 0.0, 0.4, 0.4, seconds=2.5)
    assert workers == [5]  # 6 s in 1.5 s, with a fifth more
    assert lines[0].endswith("a step 1.5 s; 5 data workers from here on")


def test_too_few_cores_are_said(cores):
    lines, workers = watch(4, 0.9, 0.8, seconds=1.0)
    assert "more than the 16 cores here can decode" in lines[0] and workers == []
    assert watch("auto", 0.9, 0.8, seconds=1.0)[1] == [16]


def test_the_number_of_workers_is_a_number_or_auto():
    checks.check(Config(total_steps=1, data=DataConfig(num_workers="auto")))
    with pytest.raises(UserError, match=r"num_workers = 'all': must be a number or auto"):
        checks.check(Config(total_steps=1, data=DataConfig(num_workers="all")))
    with pytest.raises(UserError, match=r"num_workers = -1: must be at least 0"):
        checks.check(Config(total_steps=1, data=DataConfig(num_workers=-1)))
