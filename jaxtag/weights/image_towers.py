"""The image tower of a CLIP or SigLIP as a backbone: what the files beside its weights say."""

from pathlib import Path
from typing import Any

from jaxtag import models
from jaxtag.errors import UserError
from jaxtag.models.vit import ViT
from jaxtag.weights import hf_image_text, open_clip_config, safetensors_io, timm_config
from jaxtag.weights.mappings.image_text import TOWER_FORM

_SIZES = ("patch_size", "width", "depth", "heads", "mlp_dim")
_FUNCTIONS = ("activation", "norm_eps")  # which no tensor's shape shows
FIELDS = (*_SIZES, *_FUNCTIONS)  # that make a tower of a name of its form


def read(folder: Path) -> ViT | None:
    """The image tower that a folder's config.json or open_clip_config.json describes.

    Returns:
        None where they describe another model, or nothing.

    Raises:
        UserError: names the file, and what has no counterpart here.
    """
    file = folder / "config.json"
    values = safetensors_io.read_json(file)
    try:
        tower = hf_image_text.parse_tower(values) or timm_config.parse_tower(values, str(file))
        if tower is not None:
            return tower
        file = folder / open_clip_config.FILE
        values = safetensors_io.read_json(file)
        return open_clip_config.parse_tower(values) if values else None
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else error
        raise UserError(f"{file} cannot be used: {reason}") from error


def function_fields(tower: ViT) -> dict[str, Any]:
    """The fields of a tower that a model by name takes from it: no tensor's shape shows them."""
    return {field: getattr(tower, field) for field in _FUNCTIONS}


def named(tower: ViT) -> tuple[str, dict[str, Any]]:
    """A registered name of a tower's form, and the fields that make the tower of it."""
    name = _name(tower) or _form_name(tower)
    return name, {field: getattr(tower, field) for field in FIELDS}


def check(path: Path, described: ViT, model: ViT) -> None:
    """Raises UserError where a model is another tower than the files beside weights describe."""
    fields = (*TOWER_FORM, *_SIZES, *_FUNCTIONS)
    differing = [f for f in fields if getattr(described, f) != getattr(model, f)]
    if not differing:
        return
    # Of two families all is another: their names say enough.
    listed = [] if differing[0] in TOWER_FORM else differing
    theirs, ours = (
        ", ".join(f"{field} {getattr(tower, field)!r}" for field in listed)
        for tower in (described, model)
    )
    raise UserError(
        f"{path} holds {_describe(described, theirs)}, the model is {_describe(model, ours)}: "
        f"{_advice(described)}"
    )


def hint(folder: Path) -> str:
    """What to say where weights do not fit a model; empty where they are not of a tower."""
    tower = read(folder)
    if tower is None:
        return ""
    return f"; the files beside describe {_describe(tower)}: {_advice(tower)}"


def _advice(tower: ViT) -> str:
    name, fields = named(tower)
    if _name(tower) is not None:
        return f"name the backbone {name}"
    return f"name the backbone {name} with the fields {fields} (config.model.kwargs)"


def _form_name(tower: ViT) -> str:
    return "vit_base_patch16_siglip" if tower.pool == "map" else "vit_base_patch16_clip"


def _describe(tower: ViT, fields: str = "") -> str:
    family = "SigLIP" if tower.pool == "map" else "CLIP"
    details = ", ".join(filter(None, (_name(tower), fields)))
    return f"the image tower of a {family}" + (f" ({details})" if details else "")


def _name(tower: ViT) -> str | None:
    """The registered name of a tower, with its activation where there is one."""
    fields = (*TOWER_FORM, *_SIZES)
    named: dict[str, Any] = {
        name: models.create_model(name)
        for name in models.list_models()
        if issubclass(models.module_class(name), ViT)
    }
    names = [
        name
        for name, model in named.items()
        if all(getattr(model, field) == getattr(tower, field) for field in fields)
    ]
    same = [name for name in names if named[name].activation == tower.activation]
    return next(iter(same or names), None)
