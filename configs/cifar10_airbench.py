"""A small network on CIFAR-10, as fast as it goes: airbench94 (Jordan 2024, arXiv:2404.00498).

    python -m jaxtag.prepare --dataset=cifar10 --source=CIFAR10
    python -m jaxtag.train --config=cifar10_airbench --workdir=runs/airbench

The whole recipe: a whitened first convolution, alternating flip, label smoothing, a triangle for
the learning rate, Lookahead, and in evaluation the mean over a picture, its mirror image and both
moved by a pixel. Only the whitening's bias, which the paper trains for three epochs, stays as it
starts. Smoke run: --config.total_steps=5. Hardware: 2 CPU cores within an hour, a GPU within
seconds. Expected: top1 0.916 after 19 epochs on JPEG copies of CIFAR-10 (one seed,
benchmarks/README.md), 41 minutes for 24.5 epochs with --config.model.dtype=bfloat16 on a CPU that
has instructions for it; on the official files not yet measured.
"""

from jaxtag import models
from jaxtag.config.schema import (
    AugmentationConfig,
    Config,
    DataConfig,
    EvaluationConfig,
    ModelConfig,
    OptimizerConfig,
)
from jaxtag.tasks.classify.config import ClassifyConfig

_DECAY = 1.33e-3
_BIAS_RATE = 64.0  # of the norms' biases; their decay over a step is that of the others


def get_config(total_epochs: float = 9.9) -> Config:
    preprocessing = models.get_preprocessing("airbench94")
    return Config(
        task=ClassifyConfig(label_smoothing=0.2),
        batch_size=1000,
        total_epochs=total_epochs,
        log_every=10,
        evaluate_every=250,
        checkpoint_every=250,
        data=DataConfig(
            dataset="cifar10",
            evaluation_split="test",
            image_size=32,
            crop_scale=(1.0, 1.0),
            flip=True,
            mean=preprocessing.mean,
            std=preprocessing.std,
        ),
        model=ModelConfig(backbone="airbench94"),
        augmentation=AugmentationConfig(
            alternating_flip=True, crop_padding=2, crop_padding_mode="reflect"
        ),
        optimizer=OptimizerConfig(
            name="sgd",
            kwargs={"momentum": 0.85, "nesterov": True},
            learning_rate=1.5,
            schedule="triangular",
            min_lr_ratio=0.07,
            weight_decay=_DECAY,
            wd_mults=((r"norm\d/bias$", 1 / _BIAS_RATE), (r".*", 1.0)),
            lr_mults=((r"whiten/", 0.0), (r"norm\d/bias$", _BIAS_RATE), (r".*", 1.0)),
            grad_clip_norm=None,
            ema_decay=0.95,
            lookahead_steps=5,
        ),
        evaluation=EvaluationConfig(batch_size=500, tta_flip=True, tta_shift=1),
    )
