"""Parameter names of ViT in torchvision, timm and transformers, and of DINOv2's repository."""

from functools import partial

from jaxtag.models.vit import ViT
from jaxtag.weights.param_mapping import (
    Table,
    conv,
    head,
    join,
    layer_norm,
    layers,
    linear,
    renamed,
)


def torchvision(model: ViT) -> Table:
    """Maps `torchvision.models.vit_b_16` and other sizes."""
    _check_plain(model)
    tables = [
        conv("patch_embed", "conv_proj", bias=True),
        _tokens(model, "", positions="encoder.pos_embedding", cls_token="class_token"),
        layers(_torchvision, model.depth, model.scan, "", "encoder.layers.encoder_layer_{}"),
        layer_norm("norm", "encoder.ln"),
    ]
    return join([*tables, head(model.num_classes, "heads.head")])


def timm(model: ViT) -> Table:
    """Maps `timm.create_model("vit_base_patch16_224")`, DeiT, DINO, DINOv2 and other sizes."""
    table = timm_encoder(model, "", "") | head(model.num_classes, "head")
    if model.distilled and model.num_classes:
        table |= linear("head_dist", "head_dist")
    return table


def facebook(model: ViT) -> Table:
    """Maps the files of DINOv2's own repository, where they are not timm's."""
    if model.layer_scale is None or model.no_embed_class:
        raise ValueError("DINOv2 has layer_scale, and positions of the class token")
    names = {"reg_token": "register_tokens"}
    if model.activation == "swiglu":
        names |= {"mlp.fc1": "mlp.w12", "mlp.fc2": "mlp.w3"}
    return renamed(timm(model), names)


def transformers(model: ViT) -> Table:
    """Maps `transformers.ViTForImageClassification`, and that of DeiT and DINOv2.

    Their classes of DeiT are those with a teacher.
    """
    kind = transformers_kind(model)
    table = encoder(model, "", f"{kind}.")
    if kind != "deit":
        return table | head(model.num_classes, "classifier")
    if model.num_classes:
        table |= linear("head", "cls_classifier") | linear("head_dist", "distillation_classifier")
    return table


TABLES = {
    "torchvision": torchvision,
    "timm": timm,
    "transformers": transformers,
    "dinov2": facebook,
}


def transformers_kind(model: ViT) -> str:
    """The `model_type` of transformers that `model` is: vit, deit, dinov2 or ….

    Raises:
        ValueError: it is none of them.
    """
    _check_stem(model)
    if model.fc_norm or model.no_embed_class or not model.class_token:
        raise ValueError("a ViT without class token, or with fc_norm, can only be one of timm")
    if model.layer_scale is not None:
        if model.num_classes and model.pool != "cls_gap":
            raise ValueError('its DINOv2 classifies by pool="cls_gap"')
        return "dinov2_with_registers" if model.registers else "dinov2"
    if model.registers or (model.num_classes and model.pool != "cls"):
        raise ValueError('a ViT with registers or pool="gap" can only be one of timm')
    return "deit" if model.distilled else "vit"


def encoder(model: ViT, target: str, source: str) -> Table:
    """Maps `transformers.ViTModel`, from the prefix `source` to the prefix `target`."""
    kind = transformers_kind(model.clone(num_classes=0))
    embeddings = f"{source}embeddings"
    names = {"cls_token": "cls_token", "dist_token": "distillation_token"}
    names["reg_tokens"] = "register_tokens"
    block = partial(_dinov2, model) if kind.startswith("dinov2") else _transformers
    return join(
        [
            conv(f"{target}patch_embed", f"{embeddings}.patch_embeddings.projection", bias=True),
            _tokens(
                model,
                target,
                positions=f"{embeddings}.position_embeddings",
                **{token: f"{embeddings}.{name}" for token, name in names.items()},
            ),
            layers(block, model.depth, model.scan, target, f"{source}encoder.layer.{{}}"),
            layer_norm(f"{target}norm", f"{source}layernorm"),
        ]
    )


def timm_encoder(model: ViT, target: str, source: str) -> Table:
    """Maps timm's `VisionTransformer` without its head, between the prefixes."""
    _check_stem(model, only_timm=True)
    if model.pool == "cls_gap":
        raise ValueError('timm has no ViT with pool="cls_gap"')
    names = {"cls_token": "cls_token", "dist_token": "dist_token", "reg_tokens": "reg_token"}
    tokens = {name: f"{source}{theirs}" for name, theirs in names.items()}
    tables = [
        conv(f"{target}patch_embed", f"{source}patch_embed.proj", bias=model.patch_bias),
        _tokens(model, target, positions=f"{source}pos_embed", **tokens),
        layers(partial(_timm, model), model.depth, model.scan, target, f"{source}blocks.{{}}"),
        layer_norm(f"{target}norm", f"{source}{'fc_norm' if model.fc_norm else 'norm'}"),
    ]
    if model.pre_norm:
        tables.append(layer_norm(f"{target}pre_norm", f"{source}norm_pre"))
    if model.pool == "map":
        pool, attention = f"{target}pool", f"{source}attn_pool"
        parts = [f"{attention}.{name}" for name in ("q", "kv")]
        layout = "joined:1,2 {}parts:3"
        tables += [
            {
                f"params/{pool}/probe": ("first", f"{attention}.latent"),
                f"params/{pool}/qkv/kernel": (
                    layout.format("linear "),
                    *(f"{name}.weight" for name in parts),
                ),
                f"params/{pool}/qkv/bias": (
                    layout.format(""),
                    *(f"{name}.bias" for name in parts),
                ),
            },
            linear(f"{pool}/out", f"{attention}.proj"),
            layer_norm(f"{pool}/norm", f"{attention}.norm"),
            linear(f"{pool}/mlp/fc1", f"{attention}.mlp.fc1"),
            linear(f"{pool}/mlp/fc2", f"{attention}.mlp.fc2"),
        ]
    return join(tables)


def fused_attention(target: str, source: str) -> Table:
    """Maps the projections of `torch.nn.MultiheadAttention`."""
    return {
        f"params/{target}/qkv/kernel": ("linear parts:3", f"{source}.in_proj_weight"),
        f"params/{target}/qkv/bias": ("parts:3", f"{source}.in_proj_bias"),
        **linear(f"{target}/out", f"{source}.out_proj"),
    }


def _torchvision(target: str, source: str) -> Table:
    return join(
        [
            layer_norm(f"{target}/norm1", f"{source}.ln_1"),
            fused_attention(target, f"{source}.self_attention"),
            layer_norm(f"{target}/norm2", f"{source}.ln_2"),
            linear(f"{target}/mlp/fc1", f"{source}.mlp.0"),
            linear(f"{target}/mlp/fc2", f"{source}.mlp.3"),
        ]
    )


def _timm(model: ViT, target: str, source: str) -> Table:
    return join(
        [
            layer_norm(f"{target}/norm1", f"{source}.norm1"),
            {
                f"params/{target}/qkv/kernel": ("linear parts:3", f"{source}.attn.qkv.weight"),
                f"params/{target}/qkv/bias": ("parts:3", f"{source}.attn.qkv.bias"),
            },
            linear(f"{target}/out", f"{source}.attn.proj"),
            layer_norm(f"{target}/norm2", f"{source}.norm2"),
            _mlp(model, target, f"{source}.mlp.fc1", f"{source}.mlp.fc2"),
            _layer_scale(model, target, f"{source}.ls{{}}.gamma"),
        ]
    )


def _transformers(target: str, source: str) -> Table:
    return join(
        [
            layer_norm(f"{target}/norm1", f"{source}.layernorm_before"),
            _transformers_attention(target, f"{source}.attention"),
            layer_norm(f"{target}/norm2", f"{source}.layernorm_after"),
            linear(f"{target}/mlp/fc1", f"{source}.intermediate.dense"),
            linear(f"{target}/mlp/fc2", f"{source}.output.dense"),
        ]
    )


def _dinov2(model: ViT, target: str, source: str) -> Table:
    names = ("weights_in", "weights_out") if model.activation == "swiglu" else ("fc1", "fc2")
    return join(
        [
            layer_norm(f"{target}/norm1", f"{source}.norm1"),
            _transformers_attention(target, f"{source}.attention"),
            layer_norm(f"{target}/norm2", f"{source}.norm2"),
            _mlp(model, target, *(f"{source}.mlp.{name}" for name in names)),
            _layer_scale(model, target, f"{source}.layer_scale{{}}.lambda1"),
        ]
    )


def _transformers_attention(target: str, source: str) -> Table:
    parts = (f"{source}.attention.{name}" for name in ("query", "key", "value"))
    return linear(f"{target}/qkv", *parts) | linear(f"{target}/out", f"{source}.output.dense")


def _mlp(model: ViT, target: str, first: str, second: str) -> Table:
    table = linear(f"{target}/mlp/fc1", first) | linear(f"{target}/mlp/fc2", second)
    if model.activation == "swiglu":
        table[f"params/{target}/mlp/fc1/kernel"] = ("linear parts:2", f"{first}.weight")
        table[f"params/{target}/mlp/fc1/bias"] = ("parts:2", f"{first}.bias")
    return table


def _layer_scale(model: ViT, target: str, source: str) -> Table:
    if model.layer_scale is None:
        return {}
    return {f"params/{target}/scale{n}": ("", source.format(n)) for n in (1, 2)}


def _tokens(model: ViT, target: str, positions: str, **tokens: str) -> Table:
    """Maps the position embeddings, and the tokens before the patches that the model has."""
    counts = {
        "cls_token": model.class_token,
        "dist_token": model.distilled,
        "reg_tokens": model.registers,
    }
    table: Table = {f"params/{target}pos_embed": ("first", positions)}
    return table | {
        f"params/{target}{token}": ("first", tokens[token])
        for token, count in counts.items()
        if count
    }


def _check_stem(model: ViT, only_timm: bool = False) -> None:
    """Raises ValueError where no library, or none but timm, can represent `model`."""
    if not only_timm and (model.pre_norm or not model.patch_bias or model.pool == "map"):
        raise ValueError("an image encoder of CLIP or SigLIP can only be one of timm")
    if model.stem != "patch":
        raise ValueError(f'a ViT with stem="{model.stem}" has no counterpart in other libraries')


def _check_plain(model: ViT) -> None:
    """Raises ValueError for what torchvision's ViT lacks."""
    _check_stem(model)
    is_plain = model.class_token and not (model.distilled or model.registers or model.fc_norm)
    if not is_plain or model.layer_scale is not None or model.activation != "gelu":
        raise ValueError("torchvision has the plain ViT with class token only")
    if model.num_classes and model.pool != "cls":
        raise ValueError('a ViT with pool="gap" can only be one of timm')
