"""Starts without progress are counted, for launchers and for schedulers that know no steps."""

import pytest

from jaxtag.errors import UserError
from jaxtag.training import restarts


@pytest.fixture
def start(monkeypatch, tmp_path):
    """Starts a run as restart number `restart` from `step`."""

    def start(restart: int, step: int) -> None:
        monkeypatch.setenv("JAXTAG_RESTART", str(restart))
        restarts.record_start(tmp_path, lambda: [step] if step else [])

    return start


def test_the_fourth_start_from_one_step_ends(start):
    for restart in range(3):
        start(restart, 10)
    with pytest.raises(UserError, match="3 starts in a row got no further than step 10"):
        start(3, 10)


def test_progress_gives_the_starts_back(start):
    for restart, step in enumerate([0, 0, 0, 10, 10, 10, 20]):
        start(restart, step)


def test_a_run_that_is_submitted_again_counts_anew(start):
    for restart in (0, 1, 2, 0, 1, 2):
        start(restart, 10)


def test_a_launcher_reads_the_step(monkeypatch, tmp_path):
    monkeypatch.delenv("JAXTAG_RESTART", raising=False)
    monkeypatch.setenv("JAXTAG_STEP_FILE", str(tmp_path / "step"))
    restarts.record_start(tmp_path / "run", lambda: [5, 10])
    assert (tmp_path / "step").read_text() == "10\n"
    assert not (tmp_path / "run").exists()


def test_by_hand_nothing_is_counted(monkeypatch, tmp_path):
    for name in ("JAXTAG_RESTART", "JAXTAG_STEP_FILE"):
        monkeypatch.delenv(name, raising=False)
    restarts.record_start(tmp_path, lambda: [10])
    assert not list(tmp_path.iterdir())
