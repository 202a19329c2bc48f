"""ResNet on ImageNet (He et al. 2016) with the recipe of Goyal et al. 2017, arXiv:1706.02677.

    python -m jaxtag.prepare --dataset=imagenet2012 --source=ILSVRC2012
    python -m jaxtag.train --config=imagenet_resnet50 --workdir=runs/imagenet_resnet50
    python -m jaxtag.train --config=imagenet_resnet50:model=resnet152 --workdir=runs/resnet152

Smoke run: --config.total_steps=5 --config.batch_size=8. Hardware: one accelerator, or many.
Expected: not yet measured (full ImageNet).
"""

from jaxtag import models
from jaxtag.config.schema import Config, DataConfig, EvaluationConfig, ModelConfig, OptimizerConfig
from jaxtag.tasks.classify.config import ClassifyConfig


def get_config(model: str = "resnet50") -> Config:
    preprocessing = models.get_preprocessing(model)
    return Config(
        task=ClassifyConfig(label_smoothing=0.1),
        batch_size=1024,
        total_epochs=90.0,
        log_every=100,
        evaluate_every=5000,
        checkpoint_every=5000,
        data=DataConfig(
            dataset="imagenet2012",
            image_size=preprocessing.image_size,
            crop_scale=(0.08, 1.0),
            eval_crop_pct=preprocessing.crop,
            flip=True,
            mean=preprocessing.mean,
            std=preprocessing.std,
            num_workers=8,
        ),
        model=ModelConfig(backbone=model),
        optimizer=OptimizerConfig(
            name="sgd",
            kwargs={"momentum": 0.9, "nesterov": True},
            learning_rate=0.4,
            warmup_epochs=5.0,
            weight_decay=5e-5,
        ),
        evaluation=EvaluationConfig(batch_size=256, max_examples=10000),
    )
