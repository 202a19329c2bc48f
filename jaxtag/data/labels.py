"""The classes or tags of a data set, saved with the run that learns them."""

import dataclasses
import json
from pathlib import Path

from jaxtag.data.sources import Source
from jaxtag.errors import UserError


@dataclasses.dataclass(frozen=True)
class LabelNames:
    """Names of the classes, or of the tags; a label is a place among them."""

    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.names)

    @classmethod
    def of(cls, source: Source, feature: str = "label") -> "LabelNames":
        """The names of `label` or `tags` of a prepared data set. UserError where it has none."""
        if feature not in source.features:
            held = ", ".join(sorted(source.features))
            words = {"label": "labels to classify by", "tags": "tags"}[feature]
            raise UserError(
                f"{source.folder} has no {words} (a record holds: {held}); take another "
                "config.data.dataset, or another config.task"
            )
        return cls(tuple(source.class_names(feature)))

    def save(self, path: Path) -> None:
        """Writes them as JSON."""
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(self.names, ensure_ascii=False) + "\n", encoding="utf-8")
        partial.replace(path)

    @classmethod
    def load(cls, path: Path) -> "LabelNames":
        """What `save` wrote. Raises UserError where the file is damaged."""
        try:
            names = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise UserError(f"{path} is damaged: {error}") from error
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise UserError(f"{path} is damaged: it must hold a list of names")
        return cls(tuple(names))
