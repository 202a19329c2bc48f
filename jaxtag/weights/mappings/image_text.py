"""Parameter names of CLIP and SigLIP in transformers and open_clip (OpenAI's names)."""

from typing import cast

from jaxtag.models.image_text import ImageText
from jaxtag.models.vit import ViT
from jaxtag.weights.mappings import vit
from jaxtag.weights.param_mapping import Table, conv, join, layer_norm, layers, linear

_IMAGE, _TEXT = "image_encoder/", "text_encoder/"


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
        _open_clip_image(model),
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


def is_siglip(model: ImageText) -> bool:
    """Whether the model is a SigLIP; else it is a CLIP.

    Raises:
        ValueError: it is neither, so that other libraries have no such model.
    """
    image, text = model.image_encoder, model.text_encoder
    if not isinstance(image, ViT) or image.stem != "patch" or image.num_classes:
        raise ValueError("only an ImageText on a ViT without a classifier has a counterpart")
    form = {
        "image_encoder.pool": image.pool,
        "image_encoder.class_token": image.class_token,
        "image_encoder.pre_norm": image.pre_norm,
        "image_encoder.patch_bias": image.patch_bias,
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
        pool, head = f"{target}pool", f"{source}.head"
        tables += [
            {f"params/{pool}/probe": ("first", f"{head}.probe")},
            vit.fused_attention(pool, f"{head}.attention"),
            layer_norm(f"{pool}/norm", f"{head}.layernorm"),
            linear(f"{pool}/mlp/fc1", f"{head}.mlp.fc1"),
            linear(f"{pool}/mlp/fc2", f"{head}.mlp.fc2"),
        ]
    return join(tables)


def _open_clip_image(model: ImageText) -> Table:
    image = cast(ViT, model.image_encoder)
    if is_siglip(model):
        return vit.timm_encoder(image, _IMAGE, "visual.trunk.")
    return join(
        [
            conv(f"{_IMAGE}patch_embed", "visual.conv1"),
            {
                f"params/{_IMAGE}cls_token": ("row", "visual.class_embedding"),
                f"params/{_IMAGE}pos_embed": ("", "visual.positional_embedding"),
            },
            layer_norm(f"{_IMAGE}pre_norm", "visual.ln_pre"),
            layers(_open_clip, image.depth, image.scan, _IMAGE, "visual.transformer.resblocks.{}"),
            layer_norm(f"{_IMAGE}norm", "visual.ln_post"),
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
