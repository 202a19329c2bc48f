"""Parameter names of the captioner in transformers: ViT and GPT-2."""

from typing import cast

from jaxtag.models.decoder import Captioner, Decoder
from jaxtag.models.vit import ViT
from jaxtag.weights.mappings import vit
from jaxtag.weights.param_mapping import Table, join, layer_norm, layers, linear


def transformers(model: Captioner) -> Table:
    """Maps `transformers.VisionEncoderDecoderModel` of a ViT and a GPT-2 with cross-attention."""
    encoder = cast(ViT, model.encoder)
    tables = [vit.encoder(encoder, "encoder/", "encoder.")]
    if encoder.width != model.decoder.width:
        tables.append(linear("memory_proj", "enc_to_dec_proj"))
    return join([*tables, _decoder(model.decoder)])


TABLES = {"transformers": transformers}


def _decoder(model: Decoder) -> Table:
    target, source = "decoder/", "decoder.transformer"
    table: Table = {
        f"params/{target}token_embed": ("", f"{source}.wte.weight"),
        f"params/{target}pos_embed": ("", f"{source}.wpe.weight"),
    }
    return join(
        [
            table,
            layers(_block, model.depth, model.scan, target, f"{source}.h.{{}}"),
            layer_norm(f"{target}norm", f"{source}.ln_f"),
        ]
    )


def _block(target: str, source: str) -> Table:
    return join(
        [
            layer_norm(f"{target}/norm1", f"{source}.ln_1"),
            _projection(f"{target}/qkv", f"{source}.attn.c_attn", "parts:3"),
            _projection(f"{target}/out", f"{source}.attn.c_proj"),
            layer_norm(f"{target}/norm_cross", f"{source}.ln_cross_attn"),
            _projection(f"{target}/cross_query", f"{source}.crossattention.q_attn"),
            _projection(f"{target}/cross_key_value", f"{source}.crossattention.c_attn", "parts:2"),
            _projection(f"{target}/cross_out", f"{source}.crossattention.c_proj"),
            layer_norm(f"{target}/norm2", f"{source}.ln_2"),
            _projection(f"{target}/mlp/fc1", f"{source}.mlp.c_fc"),
            _projection(f"{target}/mlp/fc2", f"{source}.mlp.c_proj"),
        ]
    )


def _projection(target: str, source: str, layout: str = "") -> Table:
    """Maps GPT-2's `Conv1D`, a linear layer whose weight is [in, out], as it is here."""
    return {
        f"params/{target}/kernel": (layout, f"{source}.weight"),
        f"params/{target}/bias": (layout, f"{source}.bias"),
    }
