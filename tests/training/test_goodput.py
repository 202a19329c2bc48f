"""Goodput against sums done by hand."""

import pytest

from jaxtag.training import goodput
from jaxtag.training.goodput import GoodputRecorder, Segment
from jaxtag.training.timer import StartupTimer

FIRST = Segment(100.0, 200.0, 0, 80, {"program_startup": 15.0, "evaluation": 5.0})
SECOND = Segment(210.0, 310.0, 60, 150, {"checkpoint_restore": 10.0})


def test_an_unbroken_run():
    report = goodput.report([FIRST])
    assert report.goodput == pytest.approx(0.8)
    assert report.badput["program_startup"] == pytest.approx(0.15)
    assert sum(report.badput.values()) + report.goodput == pytest.approx(1)
    assert str(report) == "goodput 80.0%; program startup 15.0%, evaluation 5.0%"


def test_steps_taken_again_and_the_time_between_processes():
    # Of 210 s, 10 pass between the two, 20 of the first one's 80 s of steps are done again.
    report = goodput.report([FIRST, SECOND])
    assert report.badput["infrastructure_recovery"] == pytest.approx(10 / 210)
    assert report.badput["wasted_progress"] == pytest.approx(20 / 210)
    assert report.goodput == pytest.approx((60 + 90) / 210)
    assert sum(report.badput.values()) + report.goodput == pytest.approx(1)


def test_a_process_that_fell_before_its_first_step_and_one_that_lost_all():
    fell = Segment(0.0, 30.0, 0, 0, {"program_startup": 30.0})
    lost = Segment(30.0, 60.0, 0, 10, {})
    again = Segment(60.0, 90.0, 0, 10, {})
    report = goodput.report([fell, lost, again])
    assert report.badput["wasted_progress"] == pytest.approx(1 / 3)
    assert report.goodput == pytest.approx(1 / 3)


def test_what_is_recorded_is_read_by_the_next_process(tmp_path):
    recorder = GoodputRecorder(tmp_path, _startup())
    recorder.on_start(None, tmp_path, 0)
    recorder.on_step(1, None, {})
    recorder.on_checkpoint(1)
    recorder.on_step(2, None, {})
    recorder.on_evaluation(2, None)
    recorder.write_scalars(2, "train", {"data_wait_fraction": 0.5, "seconds_per_step": 3.0})
    recorder.write_scalars(2, "evaluation", {})
    later = GoodputRecorder(tmp_path, _startup())
    later.on_start(None, tmp_path, 1)
    later.on_step(2, None, {})
    later.close()
    first, second = goodput.load(tmp_path / goodput.FILE)
    assert (first.first_step, first.step, second.first_step, second.step) == (0, 2, 1, 2)
    assert set(first.seconds) == {
        "accelerator_initialization",
        "training_preparation",
        "program_startup",
        "checkpoint_save",
        "evaluation",
        "data_loading",
    }
    assert first.seconds["data_loading"] == 3.0
    assert "checkpoint_restore" in second.seconds
    assert first.began <= first.ended <= second.ended


@pytest.mark.parametrize("text", ["[1]", "{", '[{"began": 1}]', '{"a": 1}'])
def test_a_damaged_file_costs_the_history_alone(tmp_path, text):
    (tmp_path / goodput.FILE).write_text(text)
    assert GoodputRecorder(tmp_path, _startup()).report().goodput >= 0


def _startup():
    startup = StartupTimer()
    startup.done("imports")
    startup.done("state")
    return startup
