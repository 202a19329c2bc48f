"""What `jaxtag.annotate` writes besides its lines, and which files are its own."""

import contextlib
import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path

from jaxtag.errors import UsageError
from jaxtag.inference import writers
from jaxtag.inference.writers.sidecar_programs import get_program
from jaxtag.storage import atomic_file
from jaxtag.storage.paths import is_store, make_path

_MIN_KEYWORD_SCORE = 0.5  # where no thresholds have selected the tags


@dataclasses.dataclass(frozen=True)
class Outputs:
    """The outputs that the flags of the same names ask for.

    Attributes:
        output: File of the lines.
        csv, duplicates: Tables; None for none.
        gallery: Folder; None for none.
        sidecars: Photo program, or "any"; None for no sidecars.
        embed: Keywords go into the images too.
        min_score: That a tag needs to become a keyword; None: 0.5, and 0 for tags that thresholds
            have selected.
        all_scores: Rows hold every tag, whatever its score.
    """

    output: Path
    csv: str | None
    duplicates: str | None
    gallery: str | None
    sidecars: str | None
    embed: bool
    min_score: float | None
    all_scores: bool

    def make_writers(
        self, stack: contextlib.ExitStack, selects_tags: bool, num_threads: int
    ) -> list[writers.PredictionWriter]:
        """The writers besides the lines'; `stack` gives up what is not finished."""
        outputs: list[writers.PredictionWriter] = []

        def add(writer: writers.PredictionWriter) -> None:
            stack.callback(writer.abort)
            outputs.append(writer)

        min_score = self.min_score
        if min_score is None:
            min_score = 0.0 if selects_tags and not self.all_scores else _MIN_KEYWORD_SCORE
        if self.csv:
            add(writers.CsvWriter(make_path(self.csv, "--csv")))
        if self.sidecars:
            add(writers.XmpWriter(min_score, get_program(self.sidecars)))
        if self.embed:
            add(writers.EmbedWriter(min_score, get_program(self.sidecars or "any").fields))
        duplicates = None
        if self.duplicates:
            duplicates = writers.DuplicatesWriter(Path(self.duplicates), num_threads)
            add(duplicates)
        if self.gallery:
            add(writers.GalleryWriter(Path(self.gallery), num_threads, duplicates))
        return outputs

    def check_local(self, names: Sequence[str]) -> None:
        """Raises UsageError where an output needs local files and a path is of an object store."""
        if self.embed:
            _refuse_stores("embed", names)
        for flag in ("gallery", "duplicates"):
            if path := getattr(self, flag):
                _refuse_stores(flag, [*names, path])

    def without_own(self, names: Sequence[str]) -> list[str]:
        """`names` without the files that this or an earlier run wrote among the images."""
        outputs = [make_path(path) for path in (self.output, self.csv, self.duplicates) if path]
        own = {_real(p) for path in outputs for p in (path, *atomic_file.stale_partials(path))}
        gallery = os.path.join(_real(self.gallery), "") if self.gallery else None
        sidecars = {f"{stem}.xmp" for name in names for stem in (name, os.path.splitext(name)[0])}

        def is_own(name: str) -> bool:
            path = _real(name)
            in_gallery = gallery is not None and path.startswith(gallery)
            return path in own or in_gallery or name in sidecars

        return [name for name in names if not is_own(name)]


def exit_status(outputs: Sequence[writers.PredictionWriter]) -> int:
    """The exit status of what was written: 1 where keywords could not be."""
    keywords = [w for w in outputs if isinstance(w, writers.XmpWriter | writers.EmbedWriter)]
    return 1 if any(writer.num_failed for writer in keywords) else 0


def _refuse_stores(flag: str, paths: Sequence[str]) -> None:
    if store := next((path for path in paths if is_store(path)), None):
        raise UsageError(f"--{flag} needs local images and folders: {store} is none")


def _real(path: str | os.PathLike[str]) -> str:
    """A path without links, of which object stores have none."""
    return os.fspath(path) if is_store(path) else os.path.realpath(path)
