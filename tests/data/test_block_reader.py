"""Records read by blocks: the order of the sampler, each block once, whoever decodes."""

import os
from pathlib import Path

import numpy as np
import pytest

from jaxtag.data.block_reader import BlockReader
from jaxtag.data.pipeline import ExampleSpec, train_batches
from jaxtag.data.samplers import BlockShuffleSampler
from jaxtag.data.targets import ClassLabel
from jaxtag.data.transforms import Resize

COUNT, BATCH = 1000, 16


class LoggedRecords:
    """Records that write down which ranges are read, by which process."""

    def __init__(self, log: Path):
        self.log = log

    def __len__(self):
        return COUNT

    def read_range(self, start, stop):
        with open(self.log, "a") as file:
            file.write(f"{os.getpid()} {start} {stop}\n")
        return self.__getitems__(range(start, stop))

    def __getitems__(self, indices):
        pixel = np.zeros((1, 1, 3), np.uint8)
        return [{"image": pixel, "label": int(index)} for index in indices]

    def ranges(self):
        return [tuple(map(int, line.split())) for line in self.log.read_text().splitlines()]


def make_sampler():
    return BlockShuffleSampler(COUNT, batch_size=BATCH, block_size=8, buffer_size=512, seed=3)


def make_batches(source, **options):
    example = ExampleSpec(Resize(600), {"label": ClassLabel()})  # too large to be cached
    sampler = make_sampler()
    return train_batches(
        source, example=example, batch_size=BATCH, seed=3, sampler=sampler, **options
    )


@pytest.fixture
def source(tmp_path):
    return LoggedRecords(tmp_path / "log")


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_have_the_order_of_the_sampler(source, workers):
    order, batches = make_sampler(), make_batches(source, num_workers=workers)
    for number in range(3):
        batch = next(batches)
        np.testing.assert_array_equal(batch["index"], order(number))
        np.testing.assert_array_equal(batch["label"], order(number))
        assert batch["mask"].all() and batch["epoch"].tolist() == [0] * BATCH
    state = batches.get_state()
    batches.close()
    resumed = make_batches(source)
    resumed.set_state(state)
    np.testing.assert_array_equal(next(resumed)["index"], order(3))
    resumed.close()
    resumed = make_batches(source, num_workers="auto")
    next(resumed)
    resumed.restart(2)
    np.testing.assert_array_equal(next(resumed)["index"], order(1))
    resumed.close()
    if workers:  # each has read other records than the other
        pids = {pid for pid, _, _ in source.ranges()} - {os.getpid()}
        reads = [
            {(a, b) for other, a, b in source.ranges() if other == pid} for pid in sorted(pids)
        ]
        assert len(reads) in (2, 4) and not reads[0] & reads[1]


def test_an_epoch_reads_each_record_once_and_holds_a_window(source):
    order, held = make_sampler(), []
    reader = BlockReader(source, order)
    for number in range(COUNT // BATCH):
        indices, records = reader.take(number, np.arange(BATCH))
        np.testing.assert_array_equal(indices, order(number))
        np.testing.assert_array_equal([record["label"] for record in records], order(number))
        held.append(sum(len(blocks) for blocks in reader._blocks.values()))
    read = [np.arange(a, b) for _, a, b in source.ranges()]
    counts = np.bincount(np.concatenate(read), minlength=COUNT)
    # The last lanes are ahead of the others by a part of a window of the next epoch.
    assert counts.min() == 1 and counts.sum() < 1.6 * COUNT
    assert len(read) < COUNT / 4
    assert max(held) <= 16 * (4 + 2)  # the window of each lane and what is read ahead


def test_processes_read_the_blocks_of_their_own_lanes(source):
    order, ranges = make_sampler(), []
    for rows in np.split(np.arange(BATCH), 4):
        reader = BlockReader(source, order)
        for number in range(20):
            _, records = reader.take(number, rows)
            expected = order(number)[rows]
            np.testing.assert_array_equal([record["label"] for record in records], expected)
        ranges.append({(a, b) for _, a, b in source.ranges()})
        source.log.write_text("")
    assert all(len(part) >= 10 for part in ranges)
    assert len(set().union(*ranges)) == sum(map(len, ranges))


def test_a_resumed_reader_drops_what_was_taken_before(source):
    order = make_sampler()
    reader = BlockReader(source, order)
    for number in range(3, 200):
        reader.take(number, np.arange(BATCH))
    assert sum(len(blocks) for blocks in reader._blocks.values()) <= 16 * (4 + 2)


def test_an_error_of_reading_reaches_the_caller(source, monkeypatch):
    def fail(self, start, stop):
        raise OSError("the store is gone")

    monkeypatch.setattr(LoggedRecords, "read_range", fail)
    with pytest.raises(OSError, match="the store is gone"):
        BlockReader(source, make_sampler()).take(0, np.arange(BATCH))
