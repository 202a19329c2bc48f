"""Parameter names of ViT in torchvision, timm and transformers."""

from jaxtag.models.vit import ViT
from jaxtag.weights.param_mapping import Table, conv, head, join, layer_norm, layers, linear


def torchvision(model: ViT) -> Table:
    """Maps `torchvision.models.vit_b_16` and other sizes."""
    _check(model, only_class_token=True)
    tables = [
        conv("patch_embed", "conv_proj", bias=True),
        _tokens(model, "", "class_token", "encoder.pos_embedding"),
        layers(_torchvision, model.depth, model.scan, "", "encoder.layers.encoder_layer_{}"),
        layer_norm("norm", "encoder.ln"),
    ]
    return join([*tables, head(model.num_classes, "heads.head")])


def timm(model: ViT) -> Table:
    """Maps `timm.create_model("vit_base_patch16_224")` and other sizes."""
    _check(model)
    tables = [
        conv("patch_embed", "patch_embed.proj", bias=True),
        _tokens(model, "", "cls_token", "pos_embed"),
        layers(_timm, model.depth, model.scan, "", "blocks.{}"),
        layer_norm("norm", "norm"),
    ]
    return join([*tables, head(model.num_classes, "head")])


def transformers(model: ViT) -> Table:
    """Maps `transformers.ViTForImageClassification`."""
    _check(model, only_class_token=True)
    return encoder(model, "", "vit.") | head(model.num_classes, "classifier")


TABLES = {"torchvision": torchvision, "timm": timm, "transformers": transformers}


def encoder(model: ViT, target: str, source: str) -> Table:
    """Maps `transformers.ViTModel`, from the prefix `source` to the prefix `target`."""
    _check(model)
    embeddings = f"{source}embeddings"
    return join(
        [
            conv(f"{target}patch_embed", f"{embeddings}.patch_embeddings.projection", bias=True),
            _tokens(model, target, f"{embeddings}.cls_token", f"{embeddings}.position_embeddings"),
            layers(_transformers, model.depth, model.scan, target, f"{source}encoder.layer.{{}}"),
            layer_norm(f"{target}norm", f"{source}layernorm"),
        ]
    )


def _torchvision(target: str, source: str) -> Table:
    attention = f"{source}.self_attention"
    return join(
        [
            layer_norm(f"{target}/norm1", f"{source}.ln_1"),
            {
                f"params/{target}/qkv/kernel": ("linear parts:3", f"{attention}.in_proj_weight"),
                f"params/{target}/qkv/bias": ("parts:3", f"{attention}.in_proj_bias"),
            },
            linear(f"{target}/out", f"{attention}.out_proj"),
            layer_norm(f"{target}/norm2", f"{source}.ln_2"),
            linear(f"{target}/mlp/fc1", f"{source}.mlp.0"),
            linear(f"{target}/mlp/fc2", f"{source}.mlp.3"),
        ]
    )


def _timm(target: str, source: str) -> Table:
    return join(
        [
            layer_norm(f"{target}/norm1", f"{source}.norm1"),
            {
                f"params/{target}/qkv/kernel": ("linear parts:3", f"{source}.attn.qkv.weight"),
                f"params/{target}/qkv/bias": ("parts:3", f"{source}.attn.qkv.bias"),
            },
            linear(f"{target}/out", f"{source}.attn.proj"),
            layer_norm(f"{target}/norm2", f"{source}.norm2"),
            linear(f"{target}/mlp/fc1", f"{source}.mlp.fc1"),
            linear(f"{target}/mlp/fc2", f"{source}.mlp.fc2"),
        ]
    )


def _transformers(target: str, source: str) -> Table:
    attention = f"{source}.attention"
    parts = (f"{attention}.attention.{name}" for name in ("query", "key", "value"))
    return join(
        [
            layer_norm(f"{target}/norm1", f"{source}.layernorm_before"),
            linear(f"{target}/qkv", *parts),
            linear(f"{target}/out", f"{attention}.output.dense"),
            layer_norm(f"{target}/norm2", f"{source}.layernorm_after"),
            linear(f"{target}/mlp/fc1", f"{source}.intermediate.dense"),
            linear(f"{target}/mlp/fc2", f"{source}.output.dense"),
        ]
    )


def _tokens(model: ViT, target: str, class_token: str, positions: str) -> Table:
    table: Table = {f"params/{target}pos_embed": ("first", positions)}
    return table | (
        {f"params/{target}cls_token": ("first", class_token)} if model.class_token else {}
    )


def _check(model: ViT, only_class_token: bool = False) -> None:
    """Raises ValueError where the library cannot represent `model`."""
    if model.stem != "patch":
        raise ValueError(f'a ViT with stem="{model.stem}" has no counterpart in other libraries')
    if only_class_token and (not model.class_token or (model.num_classes and model.pool != "cls")):
        raise ValueError('a ViT without class token or with pool="gap" can only be one of timm')
