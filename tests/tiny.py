"""A whole configuration that trains on the data set `tiny` in seconds, all features on."""

from pathlib import Path

from jaxtag.config.schema import (
    Config,
    DataConfig,
    EvaluationConfig,
    MeshConfig,
    ModelConfig,
    OptimizerConfig,
)
from jaxtag.tasks.caption.config import CaptionConfig, DecodingConfig


def tiny_config(data_dir: Path, **fields) -> Config:
    task = CaptionConfig(
        vocab_size=320,
        max_length=10,
        captions_per_image=2,
        label_smoothing=0.1,
        decoding=DecodingConfig(method="greedy"),
    )
    settings = {
        "task": task,
        "seed": 3,
        "batch_size": 8,
        "total_steps": 6,
        "log_every": 2,
        "evaluate_every": 3,
        "checkpoint_every": 2,
        "data": DataConfig(
            dataset="tiny",
            data_dir=str(data_dir),
            image_size=32,
            flip=True,
            num_threads=1,
        ),
        "model": ModelConfig(
            backbone="vit_tiny_patch16",
            kwargs={"depth": 2, "width": 32, "heads": 2, "mlp_dim": 128, "drop_path": 0.1},
            decoder_width=32,
            decoder_depth=1,
            decoder_heads=2,
            dropout=0.1,
            scan=False,
        ),
        "optimizer": OptimizerConfig(learning_rate=1e-2, warmup_steps=1, ema_decay=0.9),
        "mesh": MeshConfig(),
        "evaluation": EvaluationConfig(batch_size=8, num_samples_shown=4),
    }
    return Config(**{**settings, **fields})
