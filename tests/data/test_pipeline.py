"""The pipeline: one global order, exact resume, whoever decodes; broken pictures."""

import itertools
import os
import signal
import time
from concurrent import futures
from typing import ClassVar

import grain
import numpy as np
import orbax.checkpoint as ocp
import pytest
import simplejpeg

from jaxtag.data import batching, pipeline
from jaxtag.data.pipeline import ExampleSpec, eval_batches, train_batches
from jaxtag.data.targets import CaptionTokens
from jaxtag.data.tokenizer import BOS, PAD, Tokenizer
from jaxtag.data.transforms import RandomResizedCrop, Resize
from jaxtag.errors import UserError

SIZE = 16
BROKEN = 5


class MemoryRecords:
    """Records that need no disk: JPEGs of noise, from 0 to 3 captions each, one is broken."""

    def __init__(self, count=22):
        rng = np.random.default_rng(0)
        self.records = []
        for index in range(count):
            pixels = rng.integers(0, 256, (24 + index, 40, 3), np.uint8)
            captions = [f"picture {index} said {word}" for word in ("once", "twice", "thrice")]
            self.records.append(
                {
                    "image": simplejpeg.encode_jpeg(pixels),
                    "file": f"{index}.jpg",
                    "captions": captions[: index % 4],
                }
            )
        if count > BROKEN:
            self.records[BROKEN]["image"] = self.records[BROKEN]["image"][:200]

    def __len__(self):
        return len(self.records)

    def __getitems__(self, indices):
        return [self.records[index] for index in indices]


class DyingRecords(MemoryRecords):
    """The process that reads them is killed, as one without memory left would be."""

    def __init__(self):
        super().__init__()
        self.parent = os.getpid()

    def __getitems__(self, indices):
        if os.getpid() != self.parent:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__getitems__(indices)


@pytest.fixture(scope="module")
def records():
    return MemoryRecords()


@pytest.fixture(scope="module")
def tokenizer(records):
    return Tokenizer.train([c for r in records.records for c in r["captions"]], 300)


@pytest.fixture(scope="module")
def example(tokenizer):
    return ExampleSpec(
        RandomResizedCrop(SIZE), {"tokens": CaptionTokens(tokenizer, 24, captions_per_image=2)}
    )


def take(batches, count):
    taken = [next(batches) for _ in range(count)]
    batches.close()
    return taken


def rows(batch):
    """The rows of a batch as comparable values, in an order of their own."""
    return sorted(
        (int(batch["index"][i]), batch["image"][i].tobytes(), batch["tokens"][i].tobytes())
        for i in range(len(batch["index"]))
    )


def assert_same(got, expected):
    assert len(got) == len(expected)
    for a, b in zip(got, expected, strict=True):
        assert a.keys() == b.keys()
        for name in a:
            np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def test_shapes_and_types(records, example):
    (batch,) = take(train_batches(records, example=example, batch_size=8, seed=0), 1)
    kinds = {name: (array.dtype.name, array.shape) for name, array in batch.items()}
    assert kinds == {
        "image": ("uint8", (8, SIZE, SIZE, 3)),
        "mask": ("float32", (8,)),
        "broken": ("bool", (8,)),
        "index": ("int32", (8,)),
        "epoch": ("int32", (8,)),
        "tokens": ("int32", (8, 2, 24)),
    }


@pytest.mark.parametrize("processes", [2, 4])
def test_any_number_of_processes_sees_the_same_global_batches(records, example, processes):
    options = {"example": example, "batch_size": 8, "seed": 7}
    global_batches = take(train_batches(records, **options), 6)
    parts = [
        take(train_batches(records, **options, rows=own), 6)
        for own in np.split(np.arange(8), processes)
    ]
    for step in range(6):
        for name, array in global_batches[step].items():
            together = np.concatenate([part[step][name] for part in parts])
            np.testing.assert_array_equal(together, array, err_msg=name)


@pytest.mark.parametrize(("workers", "threads"), [(0, 1), (0, 4), (2, 1)])
def test_workers_and_threads_change_nothing(records, example, workers, threads):
    options = {"example": example, "batch_size": 6, "seed": 1}
    expected = take(train_batches(records, **options, num_threads=0), 5)
    assert_same(
        take(train_batches(records, **options, num_workers=workers, num_threads=threads), 5),
        expected,
    )


def test_each_pass_holds_every_record_once_in_another_order(records, example):
    batches = take(train_batches(records, example=example, batch_size=11, seed=0), 4)
    index = np.concatenate([batch["index"] for batch in batches]).reshape(2, 22)
    assert (np.sort(index, axis=1) == np.arange(22)).all()
    assert (index[0] != index[1]).any()
    assert (index[0] != np.arange(22)).any()
    np.testing.assert_array_equal(
        np.concatenate([batch["epoch"] for batch in batches]), np.repeat([0, 1], 22)
    )


def test_another_seed_another_order_and_other_crops(records, example):
    a, b = (
        take(train_batches(records, example=example, batch_size=22, seed=s), 1)[0] for s in (0, 1)
    )
    assert (a["index"] != b["index"]).any()
    assert rows(a) != rows(b)


def test_a_batch_larger_than_the_source(records, example):
    (batch,) = take(train_batches(records, example=example, batch_size=44, seed=0), 1)
    assert (np.bincount(batch["index"]) == 2).all()


@pytest.mark.parametrize("resumed_workers", [0, 1])
def test_resume_is_exact_with_any_number_of_workers(records, example, resumed_workers):
    options = {"example": example, "batch_size": 6, "seed": 3}
    expected = take(train_batches(records, **options), 7)
    first = train_batches(records, **options)
    for _ in range(3):
        next(first)
    state = first.get_state()
    first.close()
    second = train_batches(records, **options, num_workers=resumed_workers)
    second.set_state(state)
    assert_same(take(second, 4), expected[3:])


def test_the_state_can_be_set_back_and_forth(records, example):
    batches = train_batches(records, example=example, batch_size=6, seed=3)
    start = batches.get_state()
    first = [next(batches) for _ in range(3)]
    batches.set_state(start)
    again = [next(batches) for _ in range(3)]
    assert_same(again, first)
    batches.close()


def test_the_state_goes_through_an_orbax_checkpoint(records, example, tmp_path):
    options = {"example": example, "batch_size": 6, "seed": 3}
    batches = train_batches(records, **options)
    next(batches)
    with ocp.CheckpointManager(tmp_path / "checkpoints") as manager:
        manager.save(1, args=ocp.args.Composite(data=grain.checkpoint.CheckpointSave(batches)))
        manager.wait_until_finished()
        expected = take(batches, 2)
        restored = train_batches(records, **options)
        manager.restore(
            1, args=ocp.args.Composite(data=grain.checkpoint.CheckpointRestore(restored))
        )
    assert_same(take(restored, 2), expected)


def test_broken_pictures_are_replaced_and_their_reason_is_kept(records, example):
    (batch,) = take(train_batches(records, example=example, batch_size=22, seed=0), 1)
    row = batch["index"].tolist().index(BROKEN)
    assert batch["broken"].sum() == 1
    assert batch["broken"][row]
    assert batch["mask"][row] == 0
    assert batch["mask"].sum() == 21
    assert not batch["image"][row].any()


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_evaluation_counts_each_record_once(records, tokenizer, processes):
    example = ExampleSpec(Resize(SIZE), {"tokens": CaptionTokens(tokenizer, 24, 3, random=False)})
    options = {"example": example, "batch_size": 8}
    shares = np.split(np.arange(8), processes)
    parts = [list(eval_batches(records, **options, rows=own)) for own in shares]
    assert {len(part) for part in parts} == {3}
    batches = [batch for part in parts for batch in part]
    index = np.concatenate([batch["index"] for batch in batches])
    mask = np.concatenate([batch["mask"] for batch in batches])
    assert sorted(index[index >= 0]) == list(range(22))
    assert (mask[index < 0] == 0).all()
    assert mask.sum() == 21
    tokens = np.concatenate([batch["tokens"] for batch in batches])
    assert (tokens[index < 0] == PAD).all()
    row = tokens[index.tolist().index(2)]
    assert tokenizer.decode_batch(row) == ["picture 2 said once", "picture 2 said twice", ""]


def test_captions_are_drawn_without_repeats_while_there_are_enough(tokenizer):
    record = {"captions": ["picture said once", "picture said twice", "picture said thrice"]}
    rng = np.random.default_rng(0)
    three, five = (CaptionTokens(tokenizer, 24, captions_per_image=k) for k in (3, 5))
    drawn = [tuple(tokenizer.decode_batch(three(record, rng))) for _ in range(50)]
    assert all(set(each) == set(record["captions"]) for each in drawn)
    assert len(set(drawn)) == 6
    assert set(tokenizer.decode_batch(five(record, rng))) == set(record["captions"])
    assert (five({"captions": []}, rng) == PAD).all()
    assert (five(record, rng)[:, 0] == BOS).all()


def test_another_field_does_not_change_the_crops(records, example):
    plain = ExampleSpec(example.image)
    (a,) = take(train_batches(records, example=plain, batch_size=8, seed=0), 1)
    (b,) = take(train_batches(records, example=example, batch_size=8, seed=0), 1)
    np.testing.assert_array_equal(a["image"], b["image"])


@pytest.mark.parametrize(
    ("threads", "at_once", "short"),
    [(0, 6, 0), (1, 512, 1 << 20), (1, 6, 0), (4, 6, 0), (4, 6, 1 << 20)],
)
def test_rows_that_stay_the_same_are_made_once(
    records, tokenizer, threads, at_once, short, monkeypatch
):
    """What threads keep is what a worker makes each time anew; broken pictures stay broken."""
    monkeypatch.setattr(batching, "_READ_AT_ONCE", at_once)
    monkeypatch.setattr(batching, "_SHORT_BYTES", short)  # longer ones are shared out to threads

    class Counted(MemoryRecords):
        read: ClassVar[list] = []

        def __getitems__(self, indices):
            self.read.extend(indices)
            return super().__getitems__(indices)

    example = ExampleSpec(Resize(SIZE), {"tokens": CaptionTokens(tokenizer, 24, random=False)})
    options = {"example": example, "batch_size": 4, "seed": 1}
    cached = train_batches(Counted(), **options, num_threads=threads)
    uncached = train_batches(records, **options, num_workers=1)
    broken = 0
    for _ in range(3 * len(records) // 4):
        one, other = next(cached), next(uncached)
        assert one.keys() == other.keys()
        for name, values in other.items():
            assert one[name].dtype == values.dtype
            np.testing.assert_array_equal(one[name], values)
        broken += int(one["broken"].sum())
        assert (one["mask"] == ~one["broken"]).all()
    assert broken >= 2
    cached.close(), uncached.close()
    assert set(Counted.read) == set(range(len(records)))
    assert len(Counted.read) == len(records)


def test_a_thread_that_was_not_done_yet_does_no_harm():
    """Of an iterator that was closed while its thread made the same rows."""

    class Slow(MemoryRecords):
        def __getitems__(self, indices):
            time.sleep(0.05)
            return super().__getitems__(indices)

    records = Slow()
    take = lambda batch: (np.arange(4) + 4 * batch, np.arange(4) + 4 * (batch % 2))  # noqa: E731
    load = batching.CachedBatchLoader(records, ExampleSpec(Resize(SIZE)), take, 1)
    with futures.ThreadPoolExecutor(4) as pool:
        batches = list(pool.map(load, [0, 0, 0, 0]))
    for other in batches[1:]:
        np.testing.assert_array_equal(other["image"], batches[0]["image"])
    assert batches[0]["image"].any()


def test_much_is_not_kept(records, monkeypatch):
    options = {"example": ExampleSpec(Resize(SIZE)), "batch_size": 4, "seed": 1}
    monkeypatch.setattr(pipeline.CachedBatchLoader, "__call__", lambda self, rows: {"kept": True})
    for limit, cached in ((0, True), (-1, False)):
        bytes_of_all = len(records) * SIZE * SIZE * 3
        monkeypatch.setattr(pipeline, "_CACHE_BYTES", bytes_of_all + limit)
        batches = train_batches(records, **options)
        assert ("kept" in next(batches)) == cached
        batches.close()


def test_an_empty_split_is_named(example):
    with pytest.raises(UserError, match="empty"):
        train_batches(MemoryRecords(0), example=example, batch_size=8, seed=0)


def test_a_killed_worker_is_an_error_and_not_a_hang(example):
    batches = train_batches(DyingRecords(), example=example, batch_size=4, seed=0, num_workers=2)
    start = time.monotonic()
    with pytest.raises(UserError, match="data worker died"):
        next(batches)
    assert time.monotonic() - start < 40
    batches.close()


def test_other_workers_go_on_with_the_same_batches(records, example):
    def batches(num_workers):
        return train_batches(
            records, example=example, batch_size=8, seed=1, num_workers=num_workers, num_threads=1
        )

    expected = list(itertools.islice(batches(0), 3))
    iterator = batches("auto")
    taken = [next(iterator)]
    assert iterator.measure_decoding() > 0
    iterator.restart(1)
    taken += [next(iterator), next(iterator)]
    iterator.close()
    for batch, other in zip(taken, expected, strict=True):
        for name, values in other.items():
            np.testing.assert_array_equal(batch[name], values)


def test_workers_check_the_shared_memory_that_their_batches_take(monkeypatch):
    checked = []
    monkeypatch.setattr(pipeline.shared_memory, "check_room", checked.append)
    spec = ExampleSpec(Resize(64))
    batches = train_batches(
        MemoryRecords(), example=spec, batch_size=8, seed=0, num_workers=2, buffer=3
    )
    batches.start_prefetch()
    batches.close()
    assert checked == [2 * (3 + 1) * 8 * 64 * 64 * 3]
