"""Writes one shard of each split, on whatever machine, and puts all of them together."""

import functools
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds
from array_record.python import array_record_module
from tensorflow_datasets.core import example_serializer

from jaxtag.data.columns import column_features, columns_path, write_shard
from jaxtag.datasets.archives import ReadError
from jaxtag.datasets.base import ImageRecord, Listing
from jaxtag.datasets.sharded.worklists import Plan
from jaxtag.datasets.summary import Summary
from jaxtag.datasets.verify import ImageVerifier, PrepareReport, VerifiedCache
from jaxtag.errors import UserError
from jaxtag.storage import json_files
from jaxtag.storage.atomic_file import replacing, write_text

VERSION = "1.0.0"
_MAX_IMAGE_BYTES = 1 << 28


def write_shards(plan: Plan, shard: int, keep_exif: bool = False, num_threads: int = 1) -> None:
    """Writes shard number `shard` of each split, unless its report says that it is there.

    Each file appears when it is complete, the report last; so a worker that is killed, or started
    twice, does no harm.
    """
    report_path = _report_path(plan, shard)
    if report_path.exists():
        return
    report_path.parent.mkdir(exist_ok=True)
    report, sizes = PrepareReport(), {}
    entries = plan.worklist(shard)
    numbers = {name: number for number, name in enumerate(plan.label_names)}
    with VerifiedCache(report_path.with_suffix(".verified")) as cache:
        verify = ImageVerifier(report, cache, keep_exif=keep_exif, num_threads=num_threads)
        for split in plan.splits:
            images = [_image(plan, entry, numbers) for entry in entries if entry["split"] == split]
            sizes[split] = _write_split(plan, split, shard, verify(split, images))
    cache.delete()
    values = {**vars(report), "sizes": sizes}
    write_text(report_path, json.dumps(values, ensure_ascii=False))


def _write_split(
    plan: Plan, split: str, shard: int, images: Iterator[tuple[ImageRecord, bytes]]
) -> list[int]:
    """Writes the records and the columns of a shard; returns the numbers of records and bytes."""
    features = tfds.features.FeaturesDict(plan.features)
    serializer = example_serializer.ExampleSerializer(features.get_serialized_info())
    path = data_folder(plan) / _shard_name(plan, split, shard)
    rows: list[dict[str, Any]] = []
    num_bytes = 0
    with replacing(path) as partial:
        writer = array_record_module.ArrayRecordWriter(str(partial), "group_size:1")
        for image, data in images:
            row = {"file": image.file, **image.fields}
            record = serializer.serialize_example(features.encode_example({"image": data, **row}))
            writer.write(record)
            rows.append(row)
            num_bytes += len(record)
        writer.close()
    write_shard(columns_path(data_folder(plan), str(path)), column_features(plan.features), [rows])
    return [len(rows), num_bytes]


def finish(plan: Plan) -> tuple[Summary, list[dict[str, str | bool]]]:
    """Writes what describes the data set, when all shards are there, into `data_folder`.

    Returns:
        The summary, and the ledger of all shards.

    Raises:
        UserError: a shard is missing, or there is not one image.
    """
    reports = []
    for shard in range(plan.num_shards):
        path = _report_path(plan, shard)
        if not path.exists():
            raise UserError(
                f"shard {shard} of {plan.num_shards} was not written: {path} is missing"
            )
        reports.append(json_files.read(path))
    report = _merged(reports, plan)
    if not report.images:
        raise UserError(f"{plan.name}: not one image can be used (see {plan.folder})")
    splits = [
        tfds.core.SplitInfo(
            name=split,
            shard_lengths=[item["sizes"][split][0] for item in reports],
            num_bytes=sum(item["sizes"][split][1] for item in reports),
        )
        for split in plan.splits
        if report.images[split]
    ]
    folder = data_folder(plan)
    tfds.folder_dataset.write_metadata(
        data_dir=folder,
        features=tfds.features.FeaturesDict(plan.features),
        split_infos=splits,
        filename_template="{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
        version=VERSION,
        check_data=False,
    )
    listing = Listing({plan.kind: plan.features[plan.kind]}, f"{Path(plan.table).name}, in shards")
    return Summary.from_report(plan.name, VERSION, listing, report, {}), report.ledger


def data_folder(plan: Plan) -> Path:
    """Where the version grows."""
    return Path(plan.folder) / "data" / plan.name / VERSION


def _merged(reports: list[dict[str, Any]], plan: Plan) -> PrepareReport:
    """The reports of all shards as one."""
    merged = PrepareReport(ledger=list(plan.problems()))
    for item in reports:
        merged.ledger += item["ledger"]
        merged.damaged += item["damaged"]
        merged.images.update(item["images"])
        merged.captions.update(item["captions"])
        merged.lengths.update({int(length): n for length, n in item["lengths"].items()})
        for name in ("labels", "tags"):
            for split, counts in item[name].items():
                getattr(merged, name)[split].update(Counter({int(k): n for k, n in counts.items()}))
    merged.images = Counter({s: merged.images[s] for s in plan.splits if merged.images[s]})
    return merged


def _image(plan: Plan, entry: dict[str, Any], numbers: dict[str, int]) -> ImageRecord:
    fields = {name: entry[name] for name in plan.features if name in entry and name != "file"}
    if plan.kind != "captions":
        for name, value in fields.items():
            is_list = isinstance(value, list)
            fields[name] = [numbers[item] for item in value] if is_list else numbers[value]
    path = Path(plan.table).parent / entry["file"]
    return ImageRecord(entry["file"], functools.partial(_read, path), fields, path=str(path))


def _read(path: Path) -> bytes:
    try:
        if path.stat().st_size > _MAX_IMAGE_BYTES:
            raise ReadError(f"more than {_MAX_IMAGE_BYTES:,} bytes")
        return path.read_bytes()
    except FileNotFoundError:
        raise ReadError("the image is missing") from None
    except OSError as error:
        raise ReadError(error.strerror or str(error)) from error


def _report_path(plan: Plan, shard: int) -> Path:
    return Path(plan.folder) / "reports" / f"{shard:05}.json"


def _shard_name(plan: Plan, split: str, shard: int) -> str:
    return f"{plan.name}-{split}.array_record-{shard:05}-of-{plan.num_shards:05}"
