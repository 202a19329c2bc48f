"""ViT on ImageNet from scratch (Beyer et al. 2022, arXiv:2205.01580, Touvron et al. 2021).

    python -m jaxtag.prepare --dataset=imagenet2012 --source=ILSVRC2012
    python -m jaxtag.train --config=imagenet_vit --workdir=runs/imagenet_vit
    python -m jaxtag.train --config=imagenet_vit:model=vit_base_patch16 --workdir=runs/vit_base

Smoke run: --config.total_steps=5 --config.batch_size=8. Hardware: one accelerator, or many.
Expected: not yet measured (full ImageNet).
"""

from jaxtag.config.schema import AugmentationConfig, Config, OptimizerConfig
from jaxtag.configs import imagenet_resnet50


def get_config(model: str = "vit_small_patch16") -> Config:
    config = imagenet_resnet50.get_config(model=model)
    config.total_epochs = 300.0
    config.model.kwargs = {"pool": "gap", "class_token": False, "drop_path": 0.1}
    config.augmentation = AugmentationConfig(randaugment=(2, 10), mixup=0.2, cutmix=1.0)
    config.optimizer = OptimizerConfig(
        name="adamw", learning_rate=1e-3, warmup_epochs=10.0, weight_decay=0.1
    )
    return config
