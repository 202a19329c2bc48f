"""CapsNet with dynamic routing on MNIST (Sabour, Frosst and Hinton 2017, arXiv:1710.09829).

    python -m jaxtag.prepare --dataset=mnist --source=MNIST
    python -m jaxtag.train --config=mnist_capsnet --workdir=runs/capsnet

Products are in bfloat16, which takes 0.6 of float32's time on a CPU that has it. Smoke run:
--config.total_steps=5. Hardware: 2 CPU cores, an hour. Expected: top1 0.9951
(benchmarks/README.md); the paper has 0.9975.
"""

from jaxtag.config.schema import (
    AugmentationConfig,
    Config,
    DataConfig,
    EvaluationConfig,
    ModelConfig,
    OptimizerConfig,
)
from jaxtag.tasks.classify.config import ClassifyConfig


def get_config(total_epochs: float = 10.0) -> Config:
    return Config(
        task=ClassifyConfig(loss="margin"),
        batch_size=64,
        total_epochs=total_epochs,
        evaluate_every=938,
        checkpoint_every=938,
        data=DataConfig(
            dataset="mnist",
            evaluation_split="test",
            image_size=28,
            crop_scale=(1.0, 1.0),
            grayscale=True,
            mean=(0.0,),
            std=(1.0,),
        ),
        model=ModelConfig(backbone="capsnet", kwargs={"reconstruct": True}, dtype="bfloat16"),
        augmentation=AugmentationConfig(crop_padding=2),
        optimizer=OptimizerConfig(
            name="adam", learning_rate=1e-3, warmup_steps=100, grad_clip_norm=None, ema_decay=0.999
        ),
        evaluation=EvaluationConfig(batch_size=100),
    )
