"""Tags of a model, as texts that captions of the same images begin with."""

import hashlib
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from jaxtag.data import feature_table, stored_images
from jaxtag.data.sources import Record, Source, SourceView
from jaxtag.data.targets import TAG_PROMPT
from jaxtag.errors import UsageError, UserError
from jaxtag.inference import predictor
from jaxtag.inference.predictor import Predictor
from jaxtag.storage.atomic_file import write_text
from jaxtag.tasks.base import Row


class TaggedSource(SourceView):
    """Another source whose records also say the tags of their images.

    Args:
        source: the records.
        texts: what each says, as `text_of` makes it.
    """

    def __init__(self, source: Source, texts: Sequence[str]):
        super().__init__(source)
        self._texts = texts

    def __getitems__(self, indices: Sequence[int], /) -> list[Record]:
        records = self.source.__getitems__(indices)
        return [{**r, TAG_PROMPT: self._texts[i]} for r, i in zip(records, indices, strict=True)]

    def read_range(self, start: int, stop: int) -> list[Record]:
        records = self.source.read_range(start, stop)
        texts = self._texts[start:stop]
        return [{**r, TAG_PROMPT: text} for r, text in zip(records, texts, strict=True)]

    @property
    def features(self) -> dict[str, Any]:
        return {**self.source.features, TAG_PROMPT: str}

    def iter_fields(self, fields: Sequence[str]) -> Iterator[Record]:
        if TAG_PROMPT not in fields:
            yield from self.source.iter_fields(fields)
            return
        others = self.source.iter_fields([name for name in fields if name != TAG_PROMPT])
        for record, text in zip(others, self._texts, strict=True):
            yield {**record, TAG_PROMPT: text}


def text_of(row: Row) -> str:
    """`dog, ball:` of a row of predictions; empty for a damaged image."""
    tags = [tag["tag"] for tag in row.get("tags", ())]
    return f"{', '.join(tags)}:" if tags else ""


def load_tagger(reference: str) -> Predictor:
    """The model that config.task.tags_from names. Raises UserError where there is none."""
    try:
        return predictor.load(reference)
    except UserError as error:
        raise type(error)(f"config.task.tags_from: {error}") from error


def add_to(source: Source, tagger: Predictor, num_tags: int) -> TaggedSource:
    """A source whose records say the `num_tags` likeliest tags of their images.

    They are computed once, and kept in the user's cache for data with a digest.

    Raises:
        UsageError: the model gives no tags.
    """
    path = _path(source, tagger, num_tags)
    texts = None if path is None else _read(path, len(source))
    if texts is None:
        print(f"tags of {len(source):,} images by {tagger.reference}", file=sys.stderr)
        images = stored_images.list_records(source, source.name)
        rows = list(tagger.predict_rows(images, num_tags))
        if not any("tags" in row for row in rows):
            raise UsageError(
                f"config.task.tags_from: {tagger.reference} gives no tags; name a tagger or a "
                "classifier"
            )
        texts = [text_of(row) for row in rows]
        if path is not None:
            _write(path, texts)
    return TaggedSource(source, texts)


def _path(source: Source, tagger: Predictor, num_tags: int) -> Path | None:
    """Where the texts are kept; None where the data have no digest, or the user no home."""
    folder, fingerprint = feature_table.cache_folder(), source.fingerprint()
    if folder is None or "digest" not in fingerprint:
        return None
    key = [source.name, fingerprint, tagger.reference, tagger.step, num_tags]
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    return folder / f"{digest[:32]}.tags.json"


def _read(path: Path, count: int) -> list[str] | None:
    try:
        texts = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return texts if isinstance(texts, list) and len(texts) == count else None


def _write(path: Path, texts: list[str]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(texts))
    except (OSError, UserError) as error:
        print(f"warning: tags are not kept: {error}", file=sys.stderr)
