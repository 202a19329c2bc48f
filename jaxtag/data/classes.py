"""The classes of a data set, saved with the run that learns them."""

import dataclasses
import json
from pathlib import Path

from jaxtag.data.sources import Source
from jaxtag.errors import UserError


@dataclasses.dataclass(frozen=True)
class Classes:
    """Names of the classes; a label is a place among them."""

    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.names)

    @classmethod
    def of(cls, source: Source) -> "Classes":
        """The classes of a prepared data set. Raises UserError where it has no labels."""
        if "label" not in source.features:
            held = ", ".join(sorted(source.features))
            raise UserError(
                f"{source.folder} has no labels to classify by (a record holds: {held}); take a "
                "data set with classes, or another config.task"
            )
        return cls(tuple(source.class_names()))

    def save(self, path: Path) -> None:
        """Writes them as JSON."""
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(self.names, ensure_ascii=False) + "\n", encoding="utf-8")
        partial.replace(path)

    @classmethod
    def load(cls, path: Path) -> "Classes":
        """What `save` wrote. Raises UserError where the file is damaged."""
        try:
            names = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise UserError(f"{path} is damaged: {error}") from error
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise UserError(f"{path} is damaged: it must hold a list of names")
        return cls(tuple(names))
