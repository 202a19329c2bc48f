"""Several sources as one, drawn from by weights: the place in the stream decides the source."""

import hashlib
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from jaxtag.data.label_matching import match_labels
from jaxtag.data.labels import LabelNames
from jaxtag.data.permutation import make_key, permute
from jaxtag.data.sources import Record, Source
from jaxtag.errors import UserError

_PERIOD = 10_000  # places after which each source has had exactly its share
_PLACES, _RECORDS = range(2)  # what keys are for


class MixtureSource(Source):
    """The records of several sources, one source after the other, and their weights.

    A record has the fields that all sources have. Labels and tags are matched by name: the mixture
    has those of all sources, and tags that a source does not know are unlabeled in its records.

    Args:
        sources: The records.
        weights: How often each is drawn from, relative to the others.

    Raises:
        UserError: A source is empty.
    """

    def __init__(self, sources: Sequence[Source], weights: Sequence[float]):
        self.name = " + ".join(source.name for source in sources)
        for source in sources:
            if not len(source):
                raise UserError(f"{source.name} is empty: leave it out of config.data.datasets")
        self._fields = set.intersection(*(set(source.features) for source in sources))
        self._names: dict[str, list[str] | None] = {}
        for feature in self._fields & {"label", "tags"}:
            sources = self._match(sources, feature)
        self._sources, self._weights = list(sources), list(weights)
        self._ends = list(itertools.accumulate(map(len, sources)))

    def _match(self, sources: Sequence[Source], feature: str) -> Sequence[Source]:
        names = [source.declared_names(feature) for source in sources]
        declared = [each for each in names if each is not None]
        if len(declared) < len(names):
            self._names[feature] = None
            return sources
        union = list(dict.fromkeys(itertools.chain.from_iterable(declared)))
        self._names[feature] = union
        return [match_labels(source, feature, LabelNames(tuple(union))) for source in sources]

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitems__(self, indices: Sequence[int], /) -> list[Record]:
        places = np.asarray(indices, np.int64)
        numbers = np.searchsorted(self._ends, places, side="right")
        records: list[Record] = [{}] * len(places)
        for number in np.unique(numbers).tolist():
            rows = np.flatnonzero(numbers == number)
            first = self._ends[number] - len(self._sources[number])
            read = self._sources[number].__getitems__((places[rows] - first).tolist())
            for row, record in zip(rows.tolist(), read, strict=True):
                records[row] = self._common(record)
        return records

    @property
    def features(self) -> Mapping[str, Any]:
        features = self._sources[0].features
        return {name: kind for name, kind in features.items() if name in self._fields}

    def class_names(self, feature: str = "label") -> list[str]:
        names = self._names.get(feature)
        return self._sources[0].class_names(feature) if names is None else list(names)

    def declared_names(self, feature: str) -> list[str] | None:
        return self._names.get(feature)

    def fingerprint(self) -> dict[str, Any]:
        parts = [source.fingerprint() for source in self._sources]
        digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]
        names = " + ".join(part.get("dataset") or "an own data source" for part in parts)
        return {"dataset": names, "examples": len(self), "digest": digest}

    def iter_fields(self, fields: Sequence[str]) -> Iterator[Record]:
        for source in self._sources:
            yield from map(self._common, source.iter_fields(fields))

    def mixture_parts(self) -> list[tuple[int, float]]:
        return [
            (len(source), weight)
            for source, weight in zip(self._sources, self._weights, strict=True)
        ]

    def _common(self, record: Record) -> Record:
        # What matching adds, such as tags that a source does not know, stays.
        keep = self._fields | {"unknown_tags"}
        return {name: value for name, value in record.items() if name in keep}


class MixtureSampler:
    """Draws from several sources by weights, from each in shuffled epochs of its own.

    Of each 10,000 places in the stream, each source has its share, exact to one place, and a
    permutation of them says which. What is n-th of a source's places has the n-th record of that
    source's epochs. Nothing is kept: a resumed run knows its place by the number of batches alone.

    Args:
        parts: (number of records, weight) of each source; indices count through all sources.
        batch_size: Of the global batch.
        seed: Of all orders.
    """

    def __init__(self, parts: Sequence[tuple[int, float]], *, batch_size: int, seed: int):
        self._batch_size, self._seed = batch_size, seed % 2**64
        self._sizes = np.array([size for size, _ in parts], np.int64)
        self._firsts = np.cumsum(self._sizes) - self._sizes
        self._shares = _apportion([weight for _, weight in parts])
        self._ends = np.cumsum(self._shares)

    def __call__(self, batch: int) -> np.ndarray:
        """The records of a batch, int64 [batch_size]."""
        periods, places = np.divmod(batch * self._batch_size + np.arange(self._batch_size), _PERIOD)
        places = permute(places, _PERIOD, make_key(self._seed, _PLACES, periods)).astype(np.int64)
        sources = np.searchsorted(self._ends, places, side="right")
        shares, sizes = self._shares[sources], self._sizes[sources]
        taken = periods * shares + places - (self._ends[sources] - shares)
        epochs, offsets = np.divmod(taken, sizes)
        keys = make_key(self._seed, _RECORDS, sources, epochs)
        return self._firsts[sources] + permute(offsets, sizes, keys).astype(np.int64)


def _apportion(weights: Sequence[float]) -> np.ndarray:
    """Whole shares of a period by the largest remainders, at least 1 each."""
    exact = np.asarray(weights, np.float64) / sum(weights) * _PERIOD
    shares = np.maximum(1, np.floor(exact)).astype(np.int64)
    order = np.argsort(shares - exact, kind="stable")
    for number in itertools.islice(itertools.cycle(order.tolist()), max(0, _PERIOD - shares.sum())):
        shares[number] += 1
    shares[np.argmax(shares)] -= shares.sum() - _PERIOD
    return shares
