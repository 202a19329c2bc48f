"""Mutated files of every kind that is read: no crash, no hang, no traceback, no bomb.

What is judged is in `targets.py` and `child.py`; the bytes of a faulty case stay in the folder that
the assertion names, and its name says how to make it again: KIND-SEED-NUMBER.
"""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import runner

KINDS = ("images", "tables", "archives", "official", "forms", "runs")


def test_sound_files_are_accepted_and_some_mutations_refused(tmp_path):
    outcome = runner.run("all", 0, 330, tmp_path)
    assert outcome.faults == []
    assert outcome.counts["accepted"] > 90  # that many are sound
    assert outcome.counts["refused"] > 50


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_ten_thousand_mutations(tmp_path, kind):
    """2,000 of each kind."""
    outcome = runner.run(kind, 0, 2000, tmp_path)
    assert outcome.faults == []
    assert sum(outcome.counts.values()) == 2000
    assert min(outcome.counts["accepted"], outcome.counts["refused"]) > 300


@pytest.mark.slow
def test_each_kind_of_fault_is_found(tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "_CPU_SECONDS", 1.5)
    outcome = runner.run("faulty", 0, 4, tmp_path)
    messages = ("status -6", "does not end", "MiB", "ZeroDivisionError")
    assert len(outcome.faults) == len(messages)
    for fault, message in zip(outcome.faults, messages, strict=True):
        assert message in fault
    assert {path.name for path in tmp_path.iterdir()} == {f"faulty-0-{n}" for n in range(4)}
