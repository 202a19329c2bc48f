"""Files of a folder, and of zips and tars that lie in it, read as if all were unpacked.

Nothing is unpacked to disk (but a compressed tar, once, into an anonymous temporary file), no
member can name a path outside its archive, and no member grows beyond a set size when it is read.
"""

import contextlib
import functools
import io
import lzma
import os
import re
import stat
import tarfile
import urllib.parse
import zipfile
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from jaxtag.data.files import is_system_file, is_system_folder
from jaxtag.data.text import clean_path
from jaxtag.datasets.archives import (
    MAX_IMAGE_BYTES,
    Archive,
    ReadError,
    TarArchive,
    Window,
    ZipArchive,
    is_archive,
)
from jaxtag.datasets.layout import TWIN_SUFFIXES, is_image_name, split_in_name
from jaxtag.errors import UserError

_MIB = 1 << 20

# A folder that is linked from several places is listed at most so many times.
_MAX_LINKS = 16


class SourceFiles:
    """All files below a folder and inside the archives at its top, by relative POSIX path.

    A file that lies unpacked hides a member of the same path. Paths are in Unicode's form NFC, as
    `clean_path` spells them. Hidden files and folders, and those of systems (`@eaDir`,
    `$RECYCLE.BIN`), are not among them. Links to folders are followed. Reading is safe from several
    threads. Use it as a context manager; it keeps its archives open.

    Args:
        root: A folder, or one archive.
        accept: Which archives of the folder to open, by file name; all by default.
        has_shards: Archives may be parts of one data set (WebDataset): tars in the folders of
            splits are opened too, and of two archives with different members of one name each
            has a folder of its own.

    Attributes:
        path: The folder or archive.
        refused: (member, reason) of members that no reader gets to see.
        warnings: What is doubtful about the names of members.

    Raises:
        UserError: There is no such folder, or an archive is damaged.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        accept: Callable[[str], bool] = lambda name: True,
        has_shards: bool = False,
    ):
        self.path = Path(root).expanduser()
        self._entries: dict[str, tuple[Archive | None, Any]] = {}
        self._archives: list[Archive] = []
        self._has_shards = has_shards
        self.refused: list[tuple[str, str]] = []
        self.warnings: list[str] = []
        self._names: Sequence[str] | None = None
        self._by_name: dict[str, list[str]] | None = None
        self._by_stem: dict[str, list[str]] | None = None
        self._folders: frozenset[str] | None = None
        if not self.path.exists():
            raise UserError(f"{self.path} does not exist")
        with contextlib.ExitStack() as stack:  # closes what is open should one be damaged
            stack.callback(self.close)
            if self.path.is_dir():
                self._add_folder(accept)
            elif is_archive(self.path.name):
                self._add_archive(self.path)
            else:
                raise UserError(f"{self.path} is neither a folder nor a zip or tar")
            self._hide_twins()
            stack.pop_all()

    def __enter__(self) -> "SourceFiles":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the archives."""
        for archive in self._archives:
            archive.close()

    def archives(self) -> list[Path]:
        """The zips and tars that are open."""
        return [archive.path for archive in self._archives]

    def names(self) -> Sequence[str]:
        """Every file's relative path, sorted."""
        if self._names is None:
            self._names = sorted(self._entries)
        return self._names

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    def find(self, path: str) -> list[str]:
        """Finds the files whose path ends with `path` (whole components), the shallowest first."""
        path = clean_path(path)
        same_base = self._names_by_base().get(path.rpartition("/")[2], ())
        if len(same_base) == 1 and (same_base[0] == path or same_base[0].endswith(f"/{path}")):
            return [same_base[0]]
        parts = (path,) if path in self._entries else _clean(path)
        if not parts:
            return []
        suffix = "/".join(parts)
        matches = [
            name
            for name in self._names_by_base().get(suffix.rpartition("/")[2], ())
            if name == suffix or name.endswith("/" + suffix)
        ]
        return sorted(matches, key=lambda name: (name.count("/"), name))

    def locate(self, path: str) -> list[str]:
        r"""Finds the files that a table of another machine means by `path`, the shallowest first.

        Absolute paths, `C:\\...`, `../` and folders above the source are dropped as far as needed:
        the longest ending of `path` that fits a file is taken, unless a folder that is dropped is
        one of the source itself (`cat/1.jpg` is not `dog/1.jpg`). Then come names in another case,
        percent-encoded ones, and ones without an ending.
        """
        matches = self.find(path)
        parts = _relative_parts(clean_path(path))
        if matches or not parts:
            return matches
        spellings = [parts]
        if "%" in path:
            spellings.append(_relative_parts(clean_path(urllib.parse.unquote(path))))
        for spelling in filter(None, spellings):
            lower, by_stem = [part.lower() for part in spelling], self._names_by_stem()
            for candidates, form, wanted in (
                (self._names_by_base().get(spelling[-1], ()), str, list(spelling)),
                (by_stem.get(_stem(lower[-1]), ()), str.lower, lower),
                (filter(is_image_name, by_stem.get(lower[-1], ())), _stem, lower),
            ):
                matches = self._longest_ending(candidates, form, wanted)
                if matches:
                    return matches
        return []

    def _longest_ending(
        self, candidates: Iterable[str], form: Callable[[str], str], wanted: list[str]
    ) -> list[str]:
        """Those of `candidates` whose form has the longest ending in common with `wanted`."""
        matches: list[str] = []
        longest = 1
        for name in candidates:
            components = form(name).split("/")
            length = _common_ending(components, wanted)
            is_contradicted = length < min(len(wanted), len(components)) and (
                wanted[-length - 1].lower() in self._folder_names()
                or split_in_name(wanted[-length - 1]) is not None
            )
            if length >= longest and not is_contradicted:
                matches = [name] if length > longest else [*matches, name]
                longest = length
        return sorted(matches, key=lambda name: (name.count("/"), name))

    def _names_by_base(self) -> dict[str, list[str]]:
        if self._by_name is None:
            self._by_name = defaultdict(list)
            for name in self._entries:
                self._by_name[name.rpartition("/")[2]].append(name)
        return self._by_name

    def _names_by_stem(self) -> dict[str, list[str]]:
        """Lower-case file name, without its ending -> paths."""
        if self._by_stem is None:
            self._by_stem = defaultdict(list)
            for name in self._entries:
                self._by_stem[_stem(name.rpartition("/")[2])].append(name)
        return self._by_stem

    def _folder_names(self) -> frozenset[str]:
        """The lower-case names of all folders."""
        if self._folders is None:
            parents = {name.rpartition("/")[0] for name in self._entries}
            self._folders = frozenset(
                part.lower() for parent in parents for part in parent.split("/")
            )
        return self._folders

    def first(self, *paths: str) -> str | None:
        """The shallowest file that `find` gives for the first of `paths` that is there."""
        return next((matches[0] for path in paths if (matches := self.find(path))), None)

    def folder(self, name: str) -> dict[str, str]:
        """Files directly in the folders called `name`, wherever they are: file name -> path."""
        paths: dict[str, str] = {}
        for path in self.names():
            parent, _, base = path.rpartition("/")
            if parent == name or parent.endswith("/" + name):
                paths.setdefault(base, path)
        return paths

    def size(self, name: str) -> int:
        """Size of a file in bytes as its folder or archive states it (an archive may lie).

        0 where the file cannot be looked at; `read` says why.
        """
        archive, entry = self._entries[name]
        if archive is not None:
            return archive.size(entry)
        try:
            return os.stat(f"{self.path}/{entry}").st_size
        except OSError:
            return 0

    def fingerprint(self, name: str) -> tuple[int, bytes]:
        """Something that two files of the same bytes have in common, and that costs little.

        Raises:
            ReadError: It cannot be read.
        """
        archive, entry = self._entries[name]
        size = self.size(name)
        checksum = archive.checksum(entry) if archive is not None else None
        if checksum is not None:
            return size, checksum
        return size, self._read(name, size // 2, 64)

    def read(self, name: str, limit: int = MAX_IMAGE_BYTES) -> bytes:
        """Reads one file as a whole.

        Raises:
            ReadError: It is missing, damaged, encrypted, unreadable or larger than `limit` bytes.
        """
        data = self._read(name, 0, limit + 1)
        if len(data) > limit:
            raise ReadError(f"larger than the {limit / _MIB:,.0f} MiB that one file may have")
        return data

    def read_prefix(self, name: str, size: int) -> bytes:
        """Reads the first `size` bytes of one file, or all where it is shorter.

        Raises:
            ReadError: As `read`.
        """
        return self._read(name, 0, size)

    def read_part(self, name: str, offset: int, size: int) -> bytes:
        """Reads `size` bytes of one file from `offset` on.

        Raises:
            ReadError: As `read`, or the file ends before.
        """
        if size > MAX_IMAGE_BYTES:
            raise ReadError(f"larger than the {MAX_IMAGE_BYTES / _MIB:,.0f} MiB allowed")
        data = self._read(name, offset, size)
        if len(data) < size:
            raise ReadError(f"{self.where(name)} ends in the middle of it")
        return data

    def open(self, name: str) -> io.BufferedReader:
        """Opens one file for reading at random; its errors are ReadErrors.

        Raises:
            ReadError: It lies in a zip, where that would unpack it again and again.
        """
        archive, _ = self._entries[name]
        if isinstance(archive, ZipArchive):
            raise ReadError("it is read at random: unpack the zip")
        window = Window(functools.partial(self._read, name), self.size(name))
        return io.BufferedReader(window, _MIB)

    def local_path(self, name: str) -> Path | None:
        """Where a file lies unpacked on this machine; None for one in an archive."""
        archive, entry = self._entries[name]
        return self.path / entry if archive is None else None

    def tar_members(self, name: str) -> Iterator[tuple[str, int, int]]:
        """Yields (path, offset, size), for `read_part`, of each regular file of a tar.

        Members that point outside of it go to `refused`.

        Raises:
            UserError: The tar is damaged or compressed.
        """
        try:
            window = io.BufferedReader(Window(functools.partial(self._read, name)))
            with tarfile.open(fileobj=window, mode="r:") as tar:
                for member in tar:
                    parts = _clean(member.name)
                    if parts is None:
                        self._refuse(self.where(name), member.name)
                    elif member.isreg() and not member.issparse():
                        yield "/".join(parts), member.offset_data, member.size
        except (tarfile.TarError, ReadError) as error:
            raise UserError(
                f"{self.where(name)} is damaged or only partly downloaded ({error}): get it again"
            ) from error

    def _read(self, name: str, offset: int, limit: int) -> bytes:
        """At most `limit` bytes of a file from `offset` on; all errors as ReadError."""
        try:
            archive, entry = self._entries[name]
        except KeyError:
            raise ReadError("the file is missing") from None
        try:
            if archive is not None:
                return archive.read(entry, offset, limit)
            # Opening a named pipe would wait for its writer.
            descriptor = os.open(self.path / entry, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            with open(descriptor, "rb") as file:
                if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                    raise ReadError("not a regular file")
                file.seek(offset)
                return file.read(limit)
        except (
            *(OSError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError),
            *(RuntimeError, ValueError),
        ) as error:
            # RuntimeError and its NotImplementedError: encryption, odd compression (zipfile).
            reason = error.strerror if isinstance(error, OSError) else None
            # An error of zipfile quotes names at any length.
            raise ReadError(
                f"cannot be read: {reason or str(error)[:300] or type(error).__name__}"
            ) from error

    def _refuse(self, archive: str, member: str) -> None:
        reason = "its name points outside of the archive" if member else "a member without a name"
        self.refused.append((f"{archive}:{clean_path(member)}", reason))

    def where(self, name: str) -> str:
        """The name of a file in messages: its path, after the archive that holds it."""
        archive, _ = self._entries[name]
        return name if archive is None else f"{archive.path.name}:{name}"

    def _add_folder(self, accept: Callable[[str], bool]) -> None:
        archives: list[tuple[Path, str]] = []
        visits: Counter[str] = Counter()
        # Links to folders are followed: large data sets often lie on another disk.
        for folder, folders, files in os.walk(
            self.path, followlinks=True, onerror=self._refuse_folder
        ):
            inside = Path(folder).relative_to(self.path).as_posix()
            prefix = "" if inside == "." else f"{inside}/"
            folders[:] = [
                name for name in sorted(folders) if self._is_entered(folder, name, visits)
            ]
            for file in sorted(files):
                if (not prefix or self._is_shard(prefix, file)) and is_archive(file):
                    if accept(file):
                        archives.append((self.path / prefix / file, prefix))
                elif not is_system_file(file):
                    self._add_file(f"{prefix}{file}")
                elif is_image_name(file) and not file.startswith("._"):  # ._: macOS's attributes
                    self.refused.append((clean_path(f"{prefix}{file}"), "a hidden file"))
        for archive, prefix in archives:
            self._add_archive(archive, prefix)

    def _hide_twins(self) -> None:
        """Takes out raw files and HEIC that have a JPEG of the same name beside them."""
        for name in [name for name in self._entries if name.lower().endswith(TWIN_SUFFIXES)]:
            stem = name.rpartition(".")[0]
            jpegs = (stem + ending for ending in (".jpg", ".JPG", ".jpeg", ".JPEG"))
            jpeg = next((other for other in jpegs if other in self._entries), None)
            if jpeg is not None:
                del self._entries[name]
                self.refused.append((name, f"{jpeg.rpartition('/')[2]} beside it is used"))

    def _refuse_folder(self, error: OSError) -> None:
        reason = f"the folder cannot be listed: {error.strerror or error}"
        if Path(error.filename) == self.path:
            raise UserError(f"{self.path}: {reason}")
        name = Path(error.filename).relative_to(self.path).as_posix()
        self.refused.append((clean_path(name), reason))

    def _is_entered(self, parent: str, name: str, visits: Counter[str]) -> bool:
        """Whether a folder is listed; says why one is not."""
        path = os.path.join(parent, name)
        reason = ""
        if is_system_folder(name):
            reason = "a hidden folder, or one of the system" if _holds_files(path) else "empty"
        elif os.path.islink(path):
            real, above = os.path.realpath(path), os.path.realpath(parent)
            visits[real] += 1
            if real == above or above.startswith(real.rstrip("/") + "/"):
                reason = "a link to a folder that it lies in"
            elif visits[real] > _MAX_LINKS:
                reason = f"linked more than {_MAX_LINKS} times"
        if reason and reason != "empty":
            self.refused.append((clean_path(os.path.relpath(path, self.path)), reason))
        return not reason

    def _add_file(self, path: str) -> None:
        name = clean_path(path)
        if self._entries.setdefault(name, (None, path)) != (None, path):
            self.refused.append((name, "another file has the same name in another Unicode form"))

    def _is_shard(self, prefix: str, file: str) -> bool:
        """Whether a file is a tar in the folder of a split."""
        return (
            self._has_shards and file.lower().endswith(".tar") and bool(split_in_name(prefix[:-1]))
        )

    def _add_archive(self, path: Path, prefix: str = "") -> None:
        if not path.is_file():
            raise UserError(f"{path} is not a regular file")
        try:
            archive = ZipArchive(path) if path.suffix.lower() == ".zip" else TarArchive(path)
        except (
            *(zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, ValueError),
            NotImplementedError,  # a version or a kind of zip that zipfile does not know
        ) as error:
            raise UserError(
                f"{path} is damaged or only partly downloaded ({str(error)[:300]}): get it again"
            ) from error
        except OSError as error:
            raise UserError(f"{path} cannot be read: {error}") from error
        self._archives.append(archive)
        if archive.doubtful_name:
            self.warnings.append(
                f"the names in {path.name} are not in UTF-8 and may be spelled wrongly, such as "
                f"{archive.doubtful_name!r}: unpack it with the encoding of the computer that made "
                "it, and give the folder"
            )
        hidden: Counter[str] = Counter()
        members: dict[str, Any] = {}
        for member, entry in archive.members:
            parts = _clean(clean_path(member))
            if not parts:
                self._refuse(path.name, member)
                continue
            clutter = next((i for i, part in enumerate(parts) if is_system_folder(part)), None)
            if clutter is not None and clutter < len(parts) - 1:
                hidden["/".join(parts[: clutter + 1])] += 1
            elif not is_system_file(parts[-1]):
                members.setdefault("/".join(parts), entry)
        self._add_members(archive, prefix, members)
        hidden.pop("__MACOSX", None)  # attributes of files that the zip holds beside it
        self.refused += [
            (f"{path.name}:{folder}", "a hidden folder, or one of the system") for folder in hidden
        ]

    def _add_members(self, archive: Archive, prefix: str, members: dict[str, Any]) -> None:
        """Adds the members of an archive, unless files of these names lie unpacked."""
        if self._has_shards and any(
            self._is_other_member(f"{prefix}{name}", archive, entry)
            for name, entry in members.items()
        ):
            prefix = f"{prefix}{archive.path.stem}/"
        for name, entry in members.items():
            self._entries.setdefault(f"{prefix}{name}", (archive, entry))

    def _is_other_member(self, name: str, archive: Archive, entry: Any) -> bool:
        """Whether another archive has a member of that name with other content."""
        other, other_entry = self._entries.get(name, (None, None))
        if other is None:
            return False
        size = archive.size(entry)
        if size != other.size(other_entry):
            return True
        middle = size // 2
        return archive.read(entry, middle, 64) != other.read(other_entry, middle, 64)

    def mount(self, archive: Archive, prefix: str) -> None:
        """Adds the members of something that holds files, below a folder; it is closed with all."""
        self._archives.append(archive)
        for member, entry in archive.members:
            self._entries[f"{prefix}{member}"] = (archive, entry)
        self._names = self._by_name = self._by_stem = self._folders = None

    def archive_of(self, name: str) -> Path | None:
        """The archive that holds a file; None for one that lies unpacked."""
        archive, _ = self._entries[name]
        return archive.path if archive is not None else None


def _clean(name: str) -> tuple[str, ...] | None:
    """The components of a relative path; None for one that leads outside."""
    name = name.replace("\\", "/")
    if not name or name.startswith("/") or re.match(r"^[A-Za-z]:", name) or "\0" in name:
        return None
    parts = PurePosixPath(name).parts
    return None if ".." in parts else parts


def _relative_parts(path: str) -> tuple[str, ...]:
    """The components of a path of any system, without what leads above or to a drive."""
    path = path.removeprefix("file:").replace("\\", "/").partition("\0")[0]
    parts = [part for part in re.sub(r"^/*[A-Za-z]:", "", path).split("/") if part.strip(" .")]
    return tuple(parts)


def _stem(path: str) -> str:
    """A lower-case path without the ending of its name."""
    folder, slash, name = path.lower().rpartition("/")
    stem, _, ending = name.rpartition(".")
    return folder + slash + (stem if stem and ending.isalnum() else name)


def _common_ending(first: list[str], second: list[str]) -> int:
    """How many components two paths have in common at their ends."""
    length = 0
    for one, other in zip(reversed(first), reversed(second), strict=False):
        if one != other:
            break
        length += 1
    return length


def _holds_files(folder: str) -> bool:
    """Whether there is a file in the folder or in one below."""
    return any(files for _, _, files in os.walk(folder))
