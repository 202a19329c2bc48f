"""Starts without progress are counted, for launchers and for schedulers that know no steps."""

import pytest

from jaxtag.errors import UserError
from jaxtag.training import restarts


@pytest.fixture
def start(monkeypatch, tmp_path):
    """Starts a run by the job `job` from `step`."""

    def start(job: str, step: int) -> None:
        monkeypatch.setenv("JAXTAG_JOB", job)
        restarts.record_start(tmp_path, lambda: [step] if step else [])

    return start


def test_the_fourth_start_from_one_step_ends(start):
    for _ in range(3):
        start("7", 10)
    with pytest.raises(UserError, match="3 starts in a row got no further than step 10"):
        start("7", 10)


def test_progress_gives_the_starts_back(start):
    for step in (0, 0, 0, 10, 10, 10, 20):
        start("7", step)


def test_a_run_that_is_submitted_again_counts_anew(start):
    for job in "777888":
        start(job, 10)


def test_a_launcher_reads_the_step(monkeypatch, tmp_path):
    monkeypatch.delenv("JAXTAG_JOB", raising=False)
    monkeypatch.setenv("JAXTAG_STEP_FILE", str(tmp_path / "step"))
    restarts.record_start(tmp_path / "run", lambda: [5, 10])
    assert (tmp_path / "step").read_text() == "10\n"
    assert not (tmp_path / "run").exists()


def test_by_hand_nothing_is_counted(monkeypatch, tmp_path):
    for name in ("JAXTAG_JOB", "JAXTAG_STEP_FILE"):
        monkeypatch.delenv(name, raising=False)
    restarts.record_start(tmp_path, lambda: [10])
    assert not list(tmp_path.iterdir())
