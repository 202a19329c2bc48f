"""The parameters of a captioner, or of its ViT, under the names that `transformers` files use."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxtag.models.captioner import Captioner
from jaxtag.models.decoder import Decoder
from jaxtag.models.vit import ViT

# Ours -> theirs. Several of theirs: ours is a stack of them. A prefix ("linear", "conv", "parts:n")
# says how their layout becomes ours: torch's Linear is [out, in], a convolution [out, in, h, w],
# and GPT-2 keeps the n parts of a projection side by side in its last dimension.
QKV = ("query", "key", "value")
VIT_LAYER = {
    "norm1/scale": ("", "layernorm_before.weight"),
    "norm1/bias": ("", "layernorm_before.bias"),
    "qkv/kernel": ("linear", *(f"attention.attention.{n}.weight" for n in QKV)),
    "qkv/bias": ("", *(f"attention.attention.{n}.bias" for n in QKV)),
    "out/kernel": ("linear", "attention.output.dense.weight"),
    "out/bias": ("", "attention.output.dense.bias"),
    "norm2/scale": ("", "layernorm_after.weight"),
    "norm2/bias": ("", "layernorm_after.bias"),
    "mlp/fc1/kernel": ("linear", "intermediate.dense.weight"),
    "mlp/fc1/bias": ("", "intermediate.dense.bias"),
    "mlp/fc2/kernel": ("linear", "output.dense.weight"),
    "mlp/fc2/bias": ("", "output.dense.bias"),
}
VIT = {
    "patch_embed/kernel": ("conv", "embeddings.patch_embeddings.projection.weight"),
    "patch_embed/bias": ("", "embeddings.patch_embeddings.projection.bias"),
    "cls_token": ("first", "embeddings.cls_token"),
    "pos_embed": ("first", "embeddings.position_embeddings"),
    "norm/scale": ("", "layernorm.weight"),
    "norm/bias": ("", "layernorm.bias"),
}
DECODER_LAYER = {
    "norm1/scale": ("", "ln_1.weight"),
    "norm1/bias": ("", "ln_1.bias"),
    "qkv/kernel": ("parts:3", "attn.c_attn.weight"),
    "qkv/bias": ("parts:3", "attn.c_attn.bias"),
    "out/kernel": ("", "attn.c_proj.weight"),
    "out/bias": ("", "attn.c_proj.bias"),
    "norm_cross/scale": ("", "ln_cross_attn.weight"),
    "norm_cross/bias": ("", "ln_cross_attn.bias"),
    "cross_query/kernel": ("", "crossattention.q_attn.weight"),
    "cross_query/bias": ("", "crossattention.q_attn.bias"),
    "cross_key_value/kernel": ("parts:2", "crossattention.c_attn.weight"),
    "cross_key_value/bias": ("parts:2", "crossattention.c_attn.bias"),
    "cross_out/kernel": ("", "crossattention.c_proj.weight"),
    "cross_out/bias": ("", "crossattention.c_proj.bias"),
    "norm2/scale": ("", "ln_2.weight"),
    "norm2/bias": ("", "ln_2.bias"),
    "mlp/fc1/kernel": ("", "mlp.c_fc.weight"),
    "mlp/fc1/bias": ("", "mlp.c_fc.bias"),
    "mlp/fc2/kernel": ("", "mlp.c_proj.weight"),
    "mlp/fc2/bias": ("", "mlp.c_proj.bias"),
}
DECODER = {
    "token_embed": ("", "wte.weight"),
    "pos_embed": ("", "wpe.weight"),
    "norm/scale": ("", "ln_f.weight"),
    "norm/bias": ("", "ln_f.bias"),
}
PROJECTION = {
    "memory_proj/kernel": ("linear", "enc_to_dec_proj.weight"),
    "memory_proj/bias": ("", "enc_to_dec_proj.bias"),
}

Tensors = Mapping[str, np.ndarray]


def captioner_params(tensors: Tensors, model: Captioner) -> dict[str, Any]:
    """The `params` of `model` from the tensors of a `VisionEncoderDecoderModel` file (ViT, GPT-2).

    Raises KeyError naming a missing tensor.
    """
    params = _read(tensors, PROJECTION, "") if "enc_to_dec_proj.weight" in tensors else {}
    params["encoder"] = vit_params(tensors, model.encoder, "encoder.")
    params["decoder"] = _decoder_params(tensors, model.decoder, "decoder.transformer.")
    return params


def vit_params(tensors: Tensors, model: ViT, prefix: str = "") -> dict[str, Any]:
    """The `params` of `model` from a `ViTModel` file (its unused pooler is left out)."""
    read = _read(tensors, VIT, prefix)
    blocks = [_read(tensors, VIT_LAYER, f"{prefix}encoder.layer.{i}.") for i in range(model.depth)]
    return read | _arrange(blocks, model.scan)


def _decoder_params(tensors: Tensors, model: Decoder, prefix: str) -> dict[str, Any]:
    blocks = [_read(tensors, DECODER_LAYER, f"{prefix}h.{i}.") for i in range(model.depth)]
    return _read(tensors, DECODER, prefix) | _arrange(blocks, model.scan)


def _read(tensors: Tensors, table: Mapping[str, tuple[str, ...]], prefix: str) -> dict[str, Any]:
    """A nested tree of what `table` names."""
    tree: dict[str, Any] = {}
    for path, (layout, *theirs) in table.items():
        parts = [_lay_out(np.asarray(tensors[prefix + name]), layout) for name in theirs]
        array = parts[0] if len(parts) == 1 else np.stack(parts, axis=-2)
        *folders, leaf = path.split("/")
        node = tree
        for folder in folders:
            node = node.setdefault(folder, {})
        node[leaf] = array
    return tree


def _lay_out(array: np.ndarray, layout: str) -> np.ndarray:
    if layout == "linear":
        return array.T
    if layout == "conv":
        return array.transpose(2, 3, 1, 0)
    if layout == "first":
        return array[0]
    if layout.startswith("parts:"):
        return array.reshape(*array.shape[:-1], int(layout.removeprefix("parts:")), -1)
    return array


def _arrange(blocks: list[dict[str, Any]], scan: bool) -> dict[str, Any]:
    """Layers as the model holds them: stacked for a scan, else one by one."""
    if not scan:
        return {f"block_{i}": block for i, block in enumerate(blocks)}
    return {"blocks": _stack(blocks)}


def _stack(trees: list[Any]) -> Any:
    if isinstance(trees[0], dict):
        return {key: _stack([tree[key] for tree in trees]) for key in trees[0]}
    return np.stack(trees)
