"""ViT in the files of torchvision, timm and transformers."""

from jaxtag.models.vit import ViT
from jaxtag.weights.param_mapping import Table, conv, join, layer_norm, layers, linear


def torchvision(model: ViT) -> Table:
    """`torchvision.models.vit_b_16` and its like."""
    _check(model, only_class_token=True)
    tables = [
        conv("patch_embed", "conv_proj", bias=True),
        _tokens(model, "", "class_token", "encoder.pos_embedding"),
        layers(_torchvision, model.depth, model.scan, "", "encoder.layers.encoder_layer_{}"),
        layer_norm("norm", "encoder.ln"),
    ]
    return join(tables + _head(model, "heads.head"))


def timm(model: ViT) -> Table:
    """`timm.create_model("vit_base_patch16_224")` and its like."""
    _check(model)
    tables = [
        conv("patch_embed", "patch_embed.proj", bias=True),
        _tokens(model, "", "cls_token", "pos_embed"),
        layers(_timm, model.depth, model.scan, "", "blocks.{}"),
        layer_norm("norm", "norm"),
    ]
    return join(tables + _head(model, "head"))


def transformers(model: ViT) -> Table:
    """`transformers.ViTForImageClassification`."""
    _check(model, only_class_token=True)
    return encoder(model, "", "vit.") | join(_head(model, "classifier"))


TABLES = {"torchvision": torchvision, "timm": timm, "transformers": transformers}


def encoder(model: ViT, ours: str, theirs: str) -> Table:
    """`transformers.ViTModel`, in our folder `ours` and under their prefix `theirs`."""
    _check(model)
    embeddings = f"{theirs}embeddings"
    return join(
        [
            conv(f"{ours}patch_embed", f"{embeddings}.patch_embeddings.projection", bias=True),
            _tokens(model, ours, f"{embeddings}.cls_token", f"{embeddings}.position_embeddings"),
            layers(_transformers, model.depth, model.scan, ours, f"{theirs}encoder.layer.{{}}"),
            layer_norm(f"{ours}norm", f"{theirs}layernorm"),
        ]
    )


def _torchvision(ours: str, theirs: str) -> Table:
    attention = f"{theirs}.self_attention"
    return join(
        [
            layer_norm(f"{ours}/norm1", f"{theirs}.ln_1"),
            {
                f"params/{ours}/qkv/kernel": ("linear parts:3", f"{attention}.in_proj_weight"),
                f"params/{ours}/qkv/bias": ("parts:3", f"{attention}.in_proj_bias"),
            },
            linear(f"{ours}/out", f"{attention}.out_proj"),
            layer_norm(f"{ours}/norm2", f"{theirs}.ln_2"),
            linear(f"{ours}/mlp/fc1", f"{theirs}.mlp.0"),
            linear(f"{ours}/mlp/fc2", f"{theirs}.mlp.3"),
        ]
    )


def _timm(ours: str, theirs: str) -> Table:
    return join(
        [
            layer_norm(f"{ours}/norm1", f"{theirs}.norm1"),
            {
                f"params/{ours}/qkv/kernel": ("linear parts:3", f"{theirs}.attn.qkv.weight"),
                f"params/{ours}/qkv/bias": ("parts:3", f"{theirs}.attn.qkv.bias"),
            },
            linear(f"{ours}/out", f"{theirs}.attn.proj"),
            layer_norm(f"{ours}/norm2", f"{theirs}.norm2"),
            linear(f"{ours}/mlp/fc1", f"{theirs}.mlp.fc1"),
            linear(f"{ours}/mlp/fc2", f"{theirs}.mlp.fc2"),
        ]
    )


def _transformers(ours: str, theirs: str) -> Table:
    attention = f"{theirs}.attention"
    parts = (f"{attention}.attention.{name}" for name in ("query", "key", "value"))
    return join(
        [
            layer_norm(f"{ours}/norm1", f"{theirs}.layernorm_before"),
            linear(f"{ours}/qkv", *parts),
            linear(f"{ours}/out", f"{attention}.output.dense"),
            layer_norm(f"{ours}/norm2", f"{theirs}.layernorm_after"),
            linear(f"{ours}/mlp/fc1", f"{theirs}.intermediate.dense"),
            linear(f"{ours}/mlp/fc2", f"{theirs}.output.dense"),
        ]
    )


def _tokens(model: ViT, ours: str, class_token: str, positions: str) -> Table:
    table: Table = {f"params/{ours}pos_embed": ("first", positions)}
    return table | (
        {f"params/{ours}cls_token": ("first", class_token)} if model.class_token else {}
    )


def _head(model: ViT, theirs: str) -> list[Table]:
    return [linear("head", theirs)] if model.num_classes else []


def _check(model: ViT, only_class_token: bool = False) -> None:
    """Raises ValueError where the library cannot hold what `model` is."""
    if model.stem != "patch":
        raise ValueError(f'a ViT with stem="{model.stem}" has no counterpart in other libraries')
    if only_class_token and (not model.class_token or (model.num_classes and model.pool != "cls")):
        raise ValueError('a ViT without class token or with pool="gap" can only be one of timm')
