"""Labels of a source numbered as a run numbers them, matched by name."""

from collections.abc import Iterator, Sequence
from typing import Any

from jaxtag.data.labels import LabelNames, listed
from jaxtag.data.sources import Record, Source, SourceView, as_list
from jaxtag.errors import UserError


class _RenumberedLabels(SourceView):
    """Another source whose labels have the numbers that a run gave to their names.

    Args:
        source: Numbers its labels otherwise.
        feature: `label` or `tags`.
        labels: The run's; they have every name of the source.
    """

    def __init__(self, source: Source, feature: str, labels: LabelNames):
        super().__init__(source)
        self._feature, self._labels = feature, labels
        names = source.class_names(feature)
        self._numbers = labels.indices(names)
        self._absent = labels.indices(labels.missing_from(names))

    def __getitems__(self, indices: Sequence[int], /) -> list[Record]:
        return [self._renumbered(record) for record in self.source.__getitems__(indices)]

    def read_range(self, start: int, stop: int) -> list[Record]:
        return [self._renumbered(record) for record in self.source.read_range(start, stop)]

    def class_names(self, feature: str = "label") -> list[str]:
        if feature == self._feature:
            return list(self._labels.names)
        return self.source.class_names(feature)

    def declared_names(self, feature: str) -> list[str] | None:
        return self.class_names(feature)

    def mixture_parts(self) -> list[tuple[int, float]]:
        return self.source.mixture_parts()

    def fingerprint(self) -> dict[str, Any]:
        return self.source.fingerprint()

    def iter_fields(self, fields: Sequence[str]) -> Iterator[Record]:
        return map(self._renumbered, self.source.iter_fields(fields))

    def _renumbered(self, record: Record) -> Record:
        record = dict(record)
        if self._feature == "label":
            if "label" in record:
                record["label"] = self._number(record["label"])
            return record
        for field in ("tags", "unknown_tags"):
            if field in record:
                record[field] = [self._number(label) for label in as_list(record[field])]
        if self._absent:  # tags that the source does not know are unlabeled, not absent
            record["unknown_tags"] = [*record.get("unknown_tags", ()), *self._absent]
        return record

    def _number(self, label: int | str) -> int:
        if isinstance(label, str):
            return self._labels.index(label)
        if not 0 <= label < len(self._numbers):
            raise UserError(f"label {label} is none of the {len(self._numbers)} of {self.name}")
        return self._numbers[label]


def match_labels(
    source: Source, feature: str, labels: LabelNames, *, numbers_agree: bool = False
) -> Source:
    """The source with its labels numbered as a run numbers them, matched by name.

    Tags that the run has and the source lacks are unlabeled in each of its records.

    Args:
        source: Its records hold `feature`.
        feature: `label` or `tags`.
        labels: The run's.
        numbers_agree: Take numbers that nobody named for the run's own.

    Raises:
        UserError: The source has labels that the run does not know.
    """
    names = source.declared_names(feature)
    if names is None:
        if not numbers_agree:
            _check_unnamed(source, feature, labels)
        return source
    if tuple(names) == labels.names:
        return source
    kind = "tags" if feature == "tags" else "classes"
    unknown = LabelNames(tuple(names)).missing_from(labels.names)
    if unknown:
        lacking = labels.missing_from(names)
        raise UserError(
            f"{source.name} has {kind} that the run does not know: {listed(unknown)}"
            + (f"; it lacks {kind} of the run: {listed(lacking)}" if lacking else "")
            + f" (the run knows {len(labels)} {kind}, by name): take the data that it was trained "
            "on, or train anew in another --workdir"
        )
    return _RenumberedLabels(source, feature, labels)


def _check_unnamed(source: Source, feature: str, labels: LabelNames) -> None:
    """Raises UserError where numbers without names meet a run that knows names."""
    if not len(source) or labels.names == tuple(map(str, range(len(labels)))):
        return
    if feature not in source.features:
        return  # what reads it says so
    values = as_list(source[0].get(feature, []))
    if values and not any(isinstance(value, str) for value in values):
        raise UserError(
            f"{source.name} numbers its {feature} without names, and the run knows names "
            f"({listed(labels.names)}): give names in the records, or "
            f"as_data_source(records, class_names={{{feature!r}: […]}})"
        )
