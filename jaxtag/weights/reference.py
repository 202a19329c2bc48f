"""REF: what names a model or weights, in the same way wherever one is named.

runs/mine                         a work directory of jaxtag.train
model.safetensors, FOLDER         files of weights, with what describes them beside
gs://bucket/…, s3://bucket/…      either of them in an object store
hf:owner/name[@revision][/file]   a repository of the Hugging Face Hub
efficientnet_lite0                a model whose weights an installed package brings
"""

import os
import re
from pathlib import Path
from typing import NamedTuple

from jaxtag.config import serialization
from jaxtag.errors import UsageError, UserError, nearest
from jaxtag.storage.paths import is_store, make_path
from jaxtag.weights import packages, tensors

Reference = str | os.PathLike[str]
_HUB = "hf:"
_HUB_PATTERN = re.compile(
    r"hf:(?P<owner>[\w.-]+)/(?P<name>[\w.-]+)(@(?P<revision>[^/@\s]+))?(/(?P<file>[^\s@]+))?"
)
_COMMIT = re.compile(r"[0-9a-f]{40}")


class HubReference(NamedTuple):
    """A repository of the Hub.

    Attributes:
        repo: `owner/name`.
        revision: branch, tag or commit; None: the main branch.
        file: of weights, where it is named.
    """

    repo: str
    revision: str | None = None
    file: str | None = None

    def __str__(self) -> str:
        revision = f"@{self.revision}" if self.revision else ""
        return f"{_HUB}{self.repo}{revision}" + (f"/{self.file}" if self.file else "")

    @property
    def is_pinned(self) -> bool:
        """Whether the revision is a commit, which never changes."""
        return self.revision is not None and bool(_COMMIT.fullmatch(self.revision))


def parse_hub(text: str) -> HubReference:
    """The parts of `hf:owner/name[@revision][/file]`. Raises UsageError for another form."""
    match = _HUB_PATTERN.fullmatch(text)
    if match is None or ".." in text.split("/"):
        raise UsageError(f"{text}: must be hf:owner/name, with @revision and /file as needed")
    return HubReference(f"{match['owner']}/{match['name']}", match["revision"], match["file"])


class ResolvedReference(NamedTuple):
    """A model on this machine.

    Attributes:
        path: a work directory, or a file or folder of weights.
        pinned: the reference that means the same tomorrow and in any folder: an absolute path, or
            with the commit as revision.
        model: the registered name, where the reference was one.
    """

    path: Path
    pinned: str
    model: str | None = None

    @property
    def is_published(self) -> bool:
        """Whether it is a published checkpoint, and no work directory."""
        path = self.path
        if path.is_file() or serialization.is_workdir(path):
            return path.is_file()
        if (path / "config.json").is_file():
            return True
        names = [file.name for file in path.iterdir()] if path.is_dir() else []
        return bool(tensors.choose_files(names))


def resolve(reference: Reference) -> ResolvedReference:
    """The files of a model, downloaded where they are elsewhere.

    Raises:
        UserError: there is no such model.
    """
    text = os.fspath(reference)
    if text.startswith(_HUB):
        from jaxtag.weights import hub  # half a second: for those who need it

        path, pinned = hub.download(parse_hub(text))
        return ResolvedReference(path, str(pinned))
    path = make_path(text)
    if is_store(path):
        return ResolvedReference(path, text)
    path = path.expanduser()
    if path.exists():
        return ResolvedReference(path, str(path.resolve()))
    if text in packages.PACKAGES:
        return ResolvedReference(packages.find_weights(text), text, text)
    close = nearest(text, packages.PACKAGES, cutoff=0.7)
    hint = f"did you mean {close}?" if close else f"there are: {', '.join(packages.PACKAGES)}"
    raise UserError(
        f"{text} is no work directory: there is no such file or folder, and it is neither "
        f"hf:owner/name nor a model whose weights a package brings ({hint})"
    )


def pin(reference: str, previous: str | None = None) -> str:
    """The reference with the commit that its branch has now; others stay as they are.

    Args:
        previous: as it was pinned before; it stays where it is of the same branch's repository.
    """
    if not reference.startswith(_HUB):
        return reference
    parsed = parse_hub(reference)
    if parsed.is_pinned:
        return reference
    if previous is not None and previous.startswith(_HUB):
        before = parse_hub(previous)
        if (before.repo, before.file) == (parsed.repo, parsed.file) and before.is_pinned:
            return previous
    return resolve(reference).pinned
