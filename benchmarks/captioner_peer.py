"""What the captioner benchmarks share: one model on both sides."""

import argparse
from pathlib import Path
from typing import Any

VOCABULARY, WIDTH, DEPTH, HEADS = 8192, 384, 6, 6
ENCODERS = {"tiny": (192, 3), "small": (384, 6)}
BOS, EOS, PAD = 1, 2, 0


def arguments(description: str, *, batch: int, length: int) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--peer_python", help="a Python with torch and transformers")
    parser.add_argument("--encoder", choices=ENCODERS, default="tiny", help="ViT size, patch 16")
    parser.add_argument("--image_size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=batch)
    parser.add_argument("--length", type=int, default=length, help="tokens of a caption")
    parser.add_argument("--rounds", type=int, default=7, help="turns of each side")
    parser.add_argument("--threads", type=int, default=2, help="cores that both sides may use")
    parser.add_argument("--serve", metavar="FOLDER", help=argparse.SUPPRESS)
    return parser


def peer_model(args: argparse.Namespace, dropout: float = 0.0) -> Any:
    """The `VisionEncoderDecoderModel`, with weights from a fixed seed."""
    import torch
    from transformers import (
        GPT2Config,
        VisionEncoderDecoderConfig,
        VisionEncoderDecoderModel,
        ViTConfig,
    )

    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    width, heads = ENCODERS[args.encoder]
    vit = ViTConfig(
        hidden_size=width,
        num_attention_heads=heads,
        intermediate_size=4 * width,
        image_size=args.image_size,
        layer_norm_eps=1e-6,
    )
    gpt2 = GPT2Config(
        vocab_size=VOCABULARY,
        n_positions=args.length,
        n_embd=WIDTH,
        n_layer=DEPTH,
        n_head=HEADS,
        resid_pdrop=dropout,
        embd_pdrop=dropout,
        attn_pdrop=dropout,
        bos_token_id=BOS,
        eos_token_id=EOS,
        pad_token_id=PAD,
        add_cross_attention=True,
        is_decoder=True,
    )
    config = VisionEncoderDecoderConfig.from_encoder_decoder_configs(vit, gpt2)
    config.decoder_start_token_id, config.pad_token_id = BOS, PAD
    return VisionEncoderDecoderModel(config)


def our_model(args: argparse.Namespace, folder: Path, dropout: float = 0.0) -> tuple[Any, Any]:
    """The same captioner here, and its parameters from the peer's file."""
    from safetensors.numpy import load_file

    from jaxtag import models
    from jaxtag.weights import param_mapping
    from jaxtag.weights.mappings import captioner

    model = models.Captioner(
        models.create_model(f"vit_{args.encoder}_patch16", image_size=args.image_size),
        models.Decoder(
            VOCABULARY,
            args.length,
            WIDTH,
            depth=DEPTH,
            heads=HEADS,
            mlp_dim=4 * WIDTH,
            dropout=dropout,
            attention_dropout=dropout,
        ),
    )
    tensors = load_file(folder / "model.safetensors")
    return model, param_mapping.to_variables(tensors, captioner.transformers(model))["params"]
