"""Parameter names of captioners in transformers: ViT and GPT-2, BLIP, GIT."""

from functools import partial
from typing import cast

from jaxtag.models.decoder import Captioner, Decoder
from jaxtag.models.vit import ViT
from jaxtag.weights.mappings import image_text, vit
from jaxtag.weights.param_mapping import Table, conv, join, layer_norm, layers, linear


def transformers(model: Captioner) -> Table:
    """Maps the class of transformers that has the form of the model's decoder.

    `VisionEncoderDecoderModel` of a ViT and a GPT-2 with cross-attention,
    `BlipForConditionalGeneration`, `GitForCausalLM`.

    Raises:
        ValueError: the encoder is another than its.
    """
    if not isinstance(model.encoder, ViT):
        raise ValueError("its captioners have a ViT as encoder")
    return {"pre_norm": _gpt2, "post_norm": _blip, "prefix": _git}[model.decoder.form](model)


TABLES = {"transformers": transformers}


def _check_tower(encoder: ViT, **form: object) -> None:
    """Raises ValueError where the encoder's form is not that of the vision tower.

    Args:
        form: values of its fields that are not those of a plain ViT with a class token.
    """
    expected = {"stem": "patch", "class_token": True, "pre_norm": False, "patch_bias": True}
    expected |= {"activation": "gelu", "distilled": False, "registers": 0, "layer_scale": None}
    expected |= {"no_embed_class": False, "fc_norm": False, **form}
    for name, value in expected.items():
        if getattr(encoder, name) != value:
            raise ValueError(f"its encoder has {name}={value!r}")


def _gpt2(model: Captioner) -> Table:
    encoder, decoder = cast(ViT, model.encoder), model.decoder
    target, source = "decoder/", "decoder.transformer"
    table = vit.encoder(encoder, "encoder/", "encoder.")
    if encoder.width != decoder.width:
        table |= linear("memory_proj", "enc_to_dec_proj")
    return join(
        [
            table,
            _embeddings(f"{source}.wte", f"{source}.wpe"),
            layers(_gpt2_block, decoder.depth, decoder.scan, target, f"{source}.h.{{}}"),
            layer_norm(f"{target}norm", f"{source}.ln_f"),
        ]
    )


def _gpt2_block(target: str, source: str) -> Table:
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


def _blip(model: Captioner) -> Table:
    encoder, embeddings = cast(ViT, model.encoder), "vision_model.embeddings"
    _check_tower(encoder)
    head = "text_decoder.cls.predictions"
    return join(
        [
            conv("encoder/patch_embed", f"{embeddings}.patch_embedding", bias=True),
            {
                "params/encoder/cls_token": ("first", f"{embeddings}.class_embedding"),
                "params/encoder/pos_embed": ("first", f"{embeddings}.position_embedding"),
            },
            layers(
                _blip_layer,
                encoder.depth,
                encoder.scan,
                "encoder/",
                "vision_model.encoder.layers.{}",
            ),
            layer_norm("encoder/norm", "vision_model.post_layernorm"),
            _bert(model.decoder, "text_decoder.bert"),
            {"params/decoder/output_bias": ("", f"{head}.bias")},
            linear("decoder/head_transform", f"{head}.transform.dense"),
            layer_norm("decoder/norm", f"{head}.transform.LayerNorm"),
        ]
    )


def _blip_layer(target: str, source: str) -> Table:
    attention = f"{source}.self_attn"
    return join(
        [
            layer_norm(f"{target}/norm1", f"{source}.layer_norm1"),
            {
                f"params/{target}/qkv/kernel": ("linear parts:3", f"{attention}.qkv.weight"),
                f"params/{target}/qkv/bias": ("parts:3", f"{attention}.qkv.bias"),
            },
            linear(f"{target}/out", f"{attention}.projection"),
            layer_norm(f"{target}/norm2", f"{source}.layer_norm2"),
            linear(f"{target}/mlp/fc1", f"{source}.mlp.fc1"),
            linear(f"{target}/mlp/fc2", f"{source}.mlp.fc2"),
        ]
    )


def _git(model: Captioner) -> Table:
    encoder = cast(ViT, model.encoder)
    _check_tower(encoder, pre_norm=True, patch_bias=False, activation="quick_gelu")
    projection = "git.visual_projection.visual_projection"
    return join(
        [
            image_text.vision_tower(encoder, "encoder/", "git.image_encoder.vision_model"),
            linear("memory_proj", f"{projection}.0"),
            layer_norm("memory_norm", f"{projection}.1"),
            _bert(model.decoder, "git"),
            {
                "params/decoder/output_embed": ("", "output.weight"),
                "params/decoder/output_bias": ("", "output.bias"),
            },
        ]
    )


def _bert(model: Decoder, source: str) -> Table:
    embeddings = f"{source}.embeddings"
    return join(
        [
            _embeddings(f"{embeddings}.word_embeddings", f"{embeddings}.position_embeddings"),
            layer_norm("decoder/embed_norm", f"{embeddings}.LayerNorm"),
            layers(
                partial(_bert_layer, model.form == "post_norm"),
                model.depth,
                model.scan,
                "decoder/",
                f"{source}.encoder.layer.{{}}",
            ),
        ]
    )


def _bert_layer(has_cross_attention: bool, target: str, source: str) -> Table:
    attention, cross = f"{source}.attention", f"{source}.crossattention"
    query, key, value = (f"self.{name}" for name in ("query", "key", "value"))
    tables = [
        linear(f"{target}/qkv", *(f"{attention}.{name}" for name in (query, key, value))),
        linear(f"{target}/out", f"{attention}.output.dense"),
        layer_norm(f"{target}/norm1", f"{attention}.output.LayerNorm"),
        linear(f"{target}/mlp/fc1", f"{source}.intermediate.dense"),
        linear(f"{target}/mlp/fc2", f"{source}.output.dense"),
        layer_norm(f"{target}/norm2", f"{source}.output.LayerNorm"),
    ]
    if has_cross_attention:
        tables += [
            linear(f"{target}/cross_query", f"{cross}.{query}"),
            linear(f"{target}/cross_key_value", f"{cross}.{key}", f"{cross}.{value}"),
            linear(f"{target}/cross_out", f"{cross}.output.dense"),
            layer_norm(f"{target}/norm_cross", f"{cross}.output.LayerNorm"),
        ]
    return join(tables)


def _embeddings(tokens: str, positions: str) -> Table:
    return {
        "params/decoder/token_embed": ("", f"{tokens}.weight"),
        "params/decoder/pos_embed": ("", f"{positions}.weight"),
    }
