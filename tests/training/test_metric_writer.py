"""A writer that cannot write ends the run with one line; a full disk is met by the caller."""

import pytest

from jaxtag.config import Config
from jaxtag.errors import StorageError, UserError, write_error
from jaxtag.training import metric_writer
from jaxtag.training.metric_writer import JsonlMetricWriter, MultiWriter, RunInfo, TensorBoardWriter


@pytest.mark.parametrize("kind", [JsonlMetricWriter, TensorBoardWriter])
def test_a_full_disk_is_one_line(kind, tmp_path):
    writer = kind()
    writer.open(RunInfo(tmp_path, 0, 10, Config(total_steps=10)))
    writer._file.close()
    writer._file = open("/dev/full", "wb", buffering=0)  # noqa: SIM115
    for _ in range(20):  # it never waits for anybody
        with pytest.raises(UserError, match=r"cannot be written: No space left on device$"):
            writer.write_scalars(1, "train", {"loss": 1.0})
    writer.close()


def test_the_exit_status_says_whether_a_restart_may_mend_it():
    full, broken = (write_error("x", OSError(number, "")) for number in (28, 5))
    assert (type(full), full.exit_status) == (UserError, 1)
    assert (type(broken), broken.exit_status) == (StorageError, 70)


def test_a_line_that_a_full_disk_cut_off_is_dropped(tmp_path):
    run = RunInfo(tmp_path, 2, 10, Config(total_steps=10))
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "split": "train"}\n{"step": 2, "spl')
    writer = JsonlMetricWriter()
    writer.open(run)
    writer.write_scalars(3, "train", {})
    writer.close()
    assert [e["step"] for e in metric_writer.read_metrics(tmp_path, "train")] == [1, 3]


def test_every_writer_is_closed_though_one_fails():
    closed = []

    class Closing(metric_writer.MetricWriter):
        def __init__(self, fails):
            self.fails = fails

        def close(self):
            closed.append(self)
            if self.fails:
                raise UserError("full")

    with pytest.raises(UserError, match="full"):
        MultiWriter([Closing(False), Closing(True), Closing(False)]).close()
    assert len(closed) == 3
