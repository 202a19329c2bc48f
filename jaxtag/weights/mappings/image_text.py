"""Parameter names of CLIP and SigLIP in transformers and open_clip (OpenAI's names)."""

from typing import cast

from jaxtag.models.image_text import ImageText
from jaxtag.models.vit import ViT
from jaxtag.weights.mappings import vit
from jaxtag.weights.param_mapping import Table, conv, head, join, layer_norm, layers, linear

_IMAGE, _TEXT = "image_encoder/", "text_encoder/"
_IMAGE_FIELDS = "image_encoder."
TOWER_FORM = ("pool", "class_token", "pre_norm", "patch_bias")  # what tells the families apart


def transformers(model: ImageText) -> Table:
    """Maps `transformers.CLIPModel` and `SiglipModel`."""
    text, image = model.text_encoder, cast(ViT, model.image_encoder)
    embeddings = "text_model.embeddings"
    tables: list[Table] = [
        vision_tower(image, _IMAGE, "vision_model"),
        {
            f"params/{_TEXT}token_embed": ("", f"{embeddings}.token_embedding.weight"),
            f"params/{_TEXT}pos_embed": ("", f"{embeddings}.position_embedding.weight"),
        },
        layers(_transformers, text.depth, text.scan, _TEXT, "text_model.encoder.layers.{}"),
        layer_norm(f"{_TEXT}norm", "text_model.final_layer_norm"),
    ]
    if is_siglip(model):
        logits: Table = {
            "params/logit_scale": ("first", "logit_scale"),
            "params/logit_bias": ("first", "logit_bias"),
        }
        return join([*tables, linear("project_text", "text_model.head"), logits])
    heads: Table = {
        "params/project_image/kernel": ("linear", "visual_projection.weight"),
        "params/project_text/kernel": ("linear", "text_projection.weight"),
        "params/logit_scale": ("", "logit_scale"),
    }
    return join([*tables, heads])


def open_clip(model: ImageText) -> Table:
    """Maps `open_clip`'s CLIP, which has OpenAI's names, and its SigLIP on a ViT of timm."""
    sigmoid = is_siglip(model)
    text, prefix = model.text_encoder, "text." if sigmoid else ""
    tables: list[Table] = [
        _open_clip_tower(cast(ViT, model.image_encoder), _IMAGE),
        {
            f"params/{_TEXT}token_embed": ("", f"{prefix}token_embedding.weight"),
            f"params/{_TEXT}pos_embed": ("", f"{prefix}positional_embedding"),
        },
        layers(_open_clip, text.depth, text.scan, _TEXT, f"{prefix}transformer.resblocks.{{}}"),
        layer_norm(f"{_TEXT}norm", f"{prefix}ln_final"),
    ]
    if sigmoid:
        logits: Table = {
            "params/logit_scale": ("", "logit_scale"),
            "params/logit_bias": ("", "logit_bias"),
        }
        return join([*tables, linear("project_text", f"{prefix}text_projection"), logits])
    heads: Table = {
        "params/project_image/kernel": ("", "visual.proj"),
        "params/project_text/kernel": ("", "text_projection"),
        "params/logit_scale": ("", "logit_scale"),
    }
    return join([*tables, heads])


TABLES = {"transformers": transformers, "open_clip": open_clip}


def transformers_tower(model: ViT) -> Table:
    """Maps the image tower alone, from the files of the whole model or of `CLIPVisionModel`."""
    _check_tower(model)
    return vision_tower(model, "", "vision_model") | head(model.num_classes, "head")


def open_clip_tower(model: ViT) -> Table:
    """Maps the image tower alone, from the files of the whole model."""
    _check_tower(model)
    return _open_clip_tower(model, "") | head(model.num_classes, "head")


# Tables that read the image tower of a file; no library has the tower as a model of these names.
TOWERS = {"transformers": transformers_tower, "open_clip": open_clip_tower}


def is_tower(model: object) -> bool:
    """Whether a model is the image tower of a CLIP or SigLIP, with or without a classifier."""
    if not isinstance(model, ViT) or model.stem != "patch":
        return False
    family = _SIGLIP if model.pool == "map" else _CLIP
    return all(getattr(model, field) == family[f"{_IMAGE_FIELDS}{field}"] for field in TOWER_FORM)


def _check_tower(model: ViT) -> None:
    if not is_tower(model):
        raise ValueError("only the image tower of a CLIP or SigLIP is in such files")


def is_siglip(model: ImageText) -> bool:
    """Whether the model is a SigLIP; else it is a CLIP.

    Raises:
        ValueError: it is neither, so that other libraries have no such model.
    """
    image, text = model.image_encoder, model.text_encoder
    if not isinstance(image, ViT) or image.stem != "patch" or image.num_classes:
        raise ValueError("only an ImageText on a ViT without a classifier has a counterpart")
    form = {
        **{f"{_IMAGE_FIELDS}{field}": getattr(image, field) for field in TOWER_FORM},
        "text_encoder.causal": text.causal,
        "text_encoder.pool": text.pool,
        "image_projection": model.image_projection,
        "projection_bias": model.projection_bias,
        "a logit bias": model.init_logit_bias is not None,
    }
    family = _SIGLIP if image.pool == "map" else _CLIP
    for name, value in form.items():
        if value != family[name]:
            raise ValueError(f"{name} = {value!r} is neither CLIP's nor SigLIP's")
    return family is _SIGLIP


# What distinguishes the families, apart from sizes and activations.
_CLIP: dict[str, object] = {
    "image_encoder.pool": "cls",
    "image_encoder.class_token": True,
    "image_encoder.pre_norm": True,
    "image_encoder.patch_bias": False,
    "text_encoder.causal": True,
    "text_encoder.pool": "eos",
    "image_projection": True,
    "projection_bias": False,
    "a logit bias": False,
}
_SIGLIP: dict[str, object] = {
    "image_encoder.pool": "map",
    "image_encoder.class_token": False,
    "image_encoder.pre_norm": False,
    "image_encoder.patch_bias": True,
    "text_encoder.causal": False,
    "text_encoder.pool": "last",
    "image_projection": False,
    "projection_bias": True,
    "a logit bias": True,
}


def vision_tower(model: ViT, target: str, source: str) -> Table:
    """Maps the vision model of CLIP or SigLIP in transformers, from one prefix to another."""
    embeddings = f"{source}.embeddings"
    tables: list[Table] = [
        conv(f"{target}patch_embed", f"{embeddings}.patch_embedding", bias=model.patch_bias),
        {f"params/{target}pos_embed": ("", f"{embeddings}.position_embedding.weight")},
        layers(_transformers, model.depth, model.scan, target, f"{source}.encoder.layers.{{}}"),
        layer_norm(f"{target}norm", f"{source}.post_layernorm"),
    ]
    if model.class_token:
        tables.append({f"params/{target}cls_token": ("row", f"{embeddings}.class_embedding")})
    if model.pre_norm:
        tables.append(layer_norm(f"{target}pre_norm", f"{source}.pre_layrnorm"))
    if model.pool == "map":
        pool, attention = f"{target}pool", f"{source}.head"
        tables += [
            {f"params/{pool}/probe": ("first", f"{attention}.probe")},
            vit.fused_attention(pool, f"{attention}.attention"),
            layer_norm(f"{pool}/norm", f"{attention}.layernorm"),
            linear(f"{pool}/mlp/fc1", f"{attention}.mlp.fc1"),
            linear(f"{pool}/mlp/fc2", f"{attention}.mlp.fc2"),
        ]
    return join(tables)


def _open_clip_tower(image: ViT, target: str) -> Table:
    """Maps the image encoder of open_clip to a prefix."""
    if image.pool == "map":
        return vit.timm_encoder(image, target, "visual.trunk.")
    return join(
        [
            conv(f"{target}patch_embed", "visual.conv1"),
            {
                f"params/{target}cls_token": ("row", "visual.class_embedding"),
                f"params/{target}pos_embed": ("", "visual.positional_embedding"),
            },
            layer_norm(f"{target}pre_norm", "visual.ln_pre"),
            layers(_open_clip, image.depth, image.scan, target, "visual.transformer.resblocks.{}"),
            layer_norm(f"{target}norm", "visual.ln_post"),
        ]
    )


def _transformers(target: str, source: str) -> Table:
    attention = f"{source}.self_attn"
    return join(
        [
            layer_norm(f"{target}/norm1", f"{source}.layer_norm1"),
            linear(f"{target}/qkv", *(f"{attention}.{name}_proj" for name in "qkv")),
            linear(f"{target}/out", f"{attention}.out_proj"),
            layer_norm(f"{target}/norm2", f"{source}.layer_norm2"),
            linear(f"{target}/mlp/fc1", f"{source}.mlp.fc1"),
            linear(f"{target}/mlp/fc2", f"{source}.mlp.fc2"),
        ]
    )


def _open_clip(target: str, source: str) -> Table:
    return join(
        [
            layer_norm(f"{target}/norm1", f"{source}.ln_1"),
            vit.fused_attention(target, f"{source}.attn"),
            layer_norm(f"{target}/norm2", f"{source}.ln_2"),
            linear(f"{target}/mlp/fc1", f"{source}.mlp.c_fc"),
            linear(f"{target}/mlp/fc2", f"{source}.mlp.c_proj"),
        ]
    )
