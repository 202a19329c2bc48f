"""A run as a repository of the Hugging Face Hub: weights, configuration, labels, model card."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx2

from jaxtag.config import serialization
from jaxtag.errors import UserError
from jaxtag.storage import atomic_file, json_files
from jaxtag.weights import mappings, timm_config
from jaxtag.weights.model_card import CONFIG_FILE, ModelCard
from jaxtag.weights.reference import parse_hub
from jaxtag.weights.saver import save

if TYPE_CHECKING:
    from jaxtag.inference.predictor import Predictor


def write_folder(folder: Path, trained: "Predictor", details: dict[str, Any]) -> str:
    """Writes what the Hub wants of a model: what `timm` or `transformers` load, and README.md.

    Args:
        folder: to write to.
        trained: a run's model.
        details: further arguments of `weights.save`: labels, preprocessing, ….

    Returns:
        the library whose names the weights have: timm where it has the architecture.

    Raises:
        UserError: neither library has it, or a file cannot be written.
    """
    library = _library(trained.task.model)
    save(folder, trained.task.model, trained.variables, library=library, **details)
    config = trained.config
    card = ModelCard(
        title=folder.resolve().name,
        task=config.task.TASK,
        library=library,
        architecture=config.model.backbone,
        image_size=config.data.image_size,
        pretrained=config.model.pretrained or trained.task.pretrained,
        dataset=config.data.dataset,
        split=config.data.evaluation_split,
        labels=details.get("labels") or (),
        metrics=_metrics(trained.workdir),
    )
    atomic_file.write_text(folder / CONFIG_FILE, serialization.to_json(config))
    atomic_file.write_text(folder / "README.md", card.to_markdown())
    return library


def push(folder: Path, repository: str) -> str:
    """Uploads a folder as the main branch of `owner/name`, made where there is none.

    Returns:
        the REF of what was uploaded, with the commit.

    Raises:
        UserError: it cannot be uploaded (HF_TOKEN must allow to write).
    """
    from huggingface_hub import HfApi, errors

    reference = parse_hub(f"hf:{repository.removeprefix('hf:')}")
    api = HfApi()
    try:
        api.create_repo(reference.repo, exist_ok=True)
        commit = api.upload_folder(
            repo_id=reference.repo, folder_path=folder, commit_message="Model of jaxtag"
        )
    except (errors.HfHubHTTPError, httpx2.HTTPError, OSError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise UserError(
            f"{reference} cannot be uploaded: {reason} (HF_TOKEN, HF_ENDPOINT)"
        ) from error
    return str(reference._replace(revision=commit.oid))


def _library(model: Any) -> str:
    """timm where it has the architecture, else transformers."""
    tables = mappings.tables(model)
    if "timm" in tables and timm_config.make_config(model, 3, 224, None, None) is not None:
        return "timm"
    if "transformers" in tables:
        return "transformers"
    raise UserError(f"neither timm nor transformers has a {type(model).__name__}")


def _metrics(workdir: Path) -> dict[str, float]:
    """The numbers of the run's evaluation.json; empty where it was not evaluated."""
    path = workdir / "evaluation.json"
    values = json_files.read(path) if path.is_file() else {}
    return {name: float(v) for name, v in values.items() if isinstance(v, float)}
