"""Models of the Hugging Face Hub: `hf:owner/name[@revision][/file]`.

`huggingface_hub` downloads, goes on with interrupted downloads, and keeps its cache; its
environment variables hold: HF_HOME, HF_TOKEN, HF_ENDPOINT, HF_HUB_OFFLINE.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import httpx2
from huggingface_hub import HfApi, errors, snapshot_download
from huggingface_hub.utils import disable_progress_bars

from jaxtag.errors import UserError
from jaxtag.weights import tensors
from jaxtag.weights.reference import HubReference

# What describes a model beside its weights.
_COMPANIONS = (
    *("config.json", "preprocessor_config.json", "generation_config.json", "selected_tags.csv"),
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "*.index.json"),
    *("vocab.json", "merges.txt", "vocab.txt", "spiece.model", "open_clip_config.json"),
)


def download(reference: HubReference) -> tuple[Path, HubReference]:
    """Downloads a model, or finds it in the cache, which is enough where it was pinned.

    Returns:
        (its folder, or the file that was named; the reference with the commit as revision).

    Raises:
        UserError: there is no such repository, revision or file, or it is neither reachable nor in
            the cache.
    """
    disable_progress_bars("huggingface_hub.snapshot_download")  # those of files stay
    with _readable_errors(reference):
        folder = _snapshot(reference, _COMPANIONS)
        pinned = reference._replace(revision=folder.name)
        if reference.file:
            _snapshot(pinned, (reference.file,))
            if not (folder / reference.file).is_file():
                raise UserError(f"{pinned}: the repository has no such file")
            return folder / reference.file, pinned
        weights = tensors.choose_files(_list_files(pinned, folder))
        if not weights:
            raise UserError(f"{pinned} holds no weights that are read here")
        _snapshot(pinned, weights)
        if weights[0].endswith(".index.json"):
            shards = {shard.name for shard in tensors.shards(folder / weights[0], check=False)}
            _snapshot(pinned, sorted(shards))
        return folder, pinned


def _snapshot(reference: HubReference, patterns: tuple[str, ...] | list[str]) -> Path:
    return Path(
        snapshot_download(
            reference.repo, revision=reference.revision, allow_patterns=list(patterns)
        )
    )


def _list_files(reference: HubReference, folder: Path) -> list[str]:
    """The files of the repository's top folder; those in the cache where it cannot be reached."""
    cached = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    if tensors.choose_files(cached):
        return cached
    try:
        names = HfApi().list_repo_files(reference.repo, revision=reference.revision)
    except (errors.OfflineModeIsEnabled, httpx2.TransportError):
        return cached
    return [name for name in names if "/" not in name]


@contextlib.contextmanager
def _readable_errors(reference: HubReference) -> Iterator[None]:
    """A context in which the errors of the Hub's client become a user's."""
    try:
        yield
    except errors.GatedRepoError as error:
        raise UserError(
            f"{reference} is gated: accept its terms on the Hub and set HF_TOKEN"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise UserError(
            f"{reference}: there is no such repository, or it is private and HF_TOKEN is not set"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise UserError(f"{reference}: the repository has no such revision") from error
    except errors.LocalEntryNotFoundError as error:
        raise UserError(
            f"{reference} is not in the cache, and the Hub cannot be reached (HF_ENDPOINT, "
            "HF_HUB_OFFLINE)"
        ) from error
    except (errors.HfHubHTTPError, errors.HFValidationError, httpx2.HTTPError, OSError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise UserError(f"{reference} cannot be downloaded: {reason}") from error
