"""The captioner in the files of `transformers.VisionEncoderDecoderModel`: ViT and GPT-2."""

from jaxtag.models.captioner import Captioner
from jaxtag.models.decoder import Decoder
from jaxtag.weights.mappings import vit
from jaxtag.weights.param_mapping import Table, join, layer_norm, layers, linear


def transformers(model: Captioner) -> Table:
    """`transformers.VisionEncoderDecoderModel` of a ViT and a GPT-2 with cross-attention."""
    tables = [vit.encoder(model.encoder, "encoder/", "encoder.")]
    if model.encoder.width != model.decoder.width:
        tables.append(linear("memory_proj", "enc_to_dec_proj"))
    return join([*tables, _decoder(model.decoder)])


TABLES = {"transformers": transformers}


def _decoder(model: Decoder) -> Table:
    ours, theirs = "decoder/", "decoder.transformer"
    table: Table = {
        f"params/{ours}token_embed": ("", f"{theirs}.wte.weight"),
        f"params/{ours}pos_embed": ("", f"{theirs}.wpe.weight"),
    }
    return join(
        [
            table,
            layers(_block, model.depth, model.scan, ours, f"{theirs}.h.{{}}"),
            layer_norm(f"{ours}norm", f"{theirs}.ln_f"),
        ]
    )


def _block(ours: str, theirs: str) -> Table:
    return join(
        [
            layer_norm(f"{ours}/norm1", f"{theirs}.ln_1"),
            _projection(f"{ours}/qkv", f"{theirs}.attn.c_attn", "parts:3"),
            _projection(f"{ours}/out", f"{theirs}.attn.c_proj"),
            layer_norm(f"{ours}/norm_cross", f"{theirs}.ln_cross_attn"),
            _projection(f"{ours}/cross_query", f"{theirs}.crossattention.q_attn"),
            _projection(f"{ours}/cross_key_value", f"{theirs}.crossattention.c_attn", "parts:2"),
            _projection(f"{ours}/cross_out", f"{theirs}.crossattention.c_proj"),
            layer_norm(f"{ours}/norm2", f"{theirs}.ln_2"),
            _projection(f"{ours}/mlp/fc1", f"{theirs}.mlp.c_fc"),
            _projection(f"{ours}/mlp/fc2", f"{theirs}.mlp.c_proj"),
        ]
    )


def _projection(ours: str, theirs: str, layout: str = "") -> Table:
    """GPT-2's `Conv1D`, a linear layer that keeps its weight [in, out] as ours."""
    return {
        f"params/{ours}/kernel": (layout, f"{theirs}.weight"),
        f"params/{ours}/bias": (layout, f"{theirs}.bias"),
    }
