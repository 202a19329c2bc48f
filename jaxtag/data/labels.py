"""Names of the classes or tags of a data set, saved with the run that learns them."""

import functools
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from jaxtag.data.text import clean_name
from jaxtag.errors import UserError, did_you_mean
from jaxtag.storage import json_files
from jaxtag.storage.atomic_file import write_text

Label = int | str  # a class or tag, by its number or by its name
_KINDS = {"label": "labels to classify by", "tags": "tags"}
_MAX_LISTED = 8  # names in a message


class NamedSource(Protocol):
    """What `LabelNames.from_source` reads of a data source."""

    @property
    def name(self) -> str: ...

    @property
    def features(self) -> Mapping[str, Any]: ...

    def class_names(self, feature: str = "label") -> list[str]: ...


@dataclass(frozen=True)
class LabelNames:
    """Names of the classes or of the tags, in the order of their numbers."""

    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.names)

    @classmethod
    def from_source(cls, source: NamedSource, feature: str = "label") -> "LabelNames":
        """Reads the names of `label` or `tags` from a data source.

        Raises:
            UserError: The source has no such feature.
        """
        if feature not in source.features:
            fields = ", ".join(sorted(source.features))
            kind = _KINDS.get(feature, feature)
            raise UserError(
                f"{source.name} has no {kind} (a record holds: {fields}); take another "
                "config.data.dataset, or another config.task"
            )
        return cls(tuple(source.class_names(feature)))

    def index(self, label: Label) -> int:
        """The number of a class or tag that is given by number or by name.

        Raises:
            UserError: There is no such label.
        """
        if isinstance(label, str):
            number = self._numbers.get(label)
            if number is None:  # it may be written in another Unicode form, or with blanks
                number = self._numbers.get(clean_name(label))
            if number is None:
                raise UserError(f"no label is called {label!r}{did_you_mean(label, self.names)}")
            return number
        if not isinstance(label, int | np.integer) or not 0 <= label < len(self.names):
            raise UserError(f"label {label!r} is none of the {len(self.names)} labels")
        return int(label)

    def indices(self, labels: Iterable[Label]) -> list[int]:
        """The number of each label; see `index`."""
        return [self.index(label) for label in labels]

    def missing_from(self, names: Iterable[str]) -> list[str]:
        """Those of these labels that are not among `names`, in order."""
        others = set(names)
        return [name for name in self.names if name not in others]

    @functools.cached_property
    def _numbers(self) -> dict[str, int]:
        cleaned = {clean_name(name): number for number, name in enumerate(self.names)}
        return cleaned | {name: number for number, name in enumerate(self.names)}

    def save(self, path: Path) -> None:
        """Writes the names as JSON."""
        write_text(path, json.dumps(self.names, ensure_ascii=False) + "\n")

    @classmethod
    def load(cls, path: Path) -> "LabelNames":
        """Reads what `save` wrote. Raises UserError where the file is damaged."""
        names = json_files.read(path)
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise UserError(f"{path} is damaged: it must hold a list of names")
        return cls(tuple(names))


def listed(names: Iterable[str]) -> str:
    """Names as a message shows them: quoted, the first few and how many more there are."""
    names = list(names)
    more = f" and {len(names) - _MAX_LISTED} more" if len(names) > _MAX_LISTED else ""
    return ", ".join(map(repr, names[:_MAX_LISTED])) + more
