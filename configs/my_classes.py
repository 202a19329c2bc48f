"""A classifier of one's own images, a folder for each class, from published ImageNet weights.

    python -m jaxtag.prepare --dataset=my_classes --source=FOLDER
    python -m jaxtag.train --config=my_classes --workdir=runs/my_classes

The backbone, EfficientNet-Lite0 with the weights of the extra `weights`, is fine-tuned at a tenth
of the new head's learning rate. Another data set: --config.data.dataset=NAME. Smoke run:
--config.total_steps=5. Hardware: 2 CPU cores. Expected: not yet measured.
"""

from jaxtag import models
from jaxtag.config.schema import Config, DataConfig, EvaluationConfig, ModelConfig, OptimizerConfig
from jaxtag.tasks.classify.config import ClassifyConfig


def get_config(
    model: str = "efficientnet_lite0", image_size: int = 160, total_epochs: float = 8.0
) -> Config:
    preprocessing = models.get_preprocessing(model)
    return Config(
        task=ClassifyConfig(label_smoothing=0.1),
        batch_size=32,
        total_epochs=total_epochs,
        evaluate_every=200,
        checkpoint_every=200,
        data=DataConfig(
            dataset="my_classes",
            image_size=image_size,
            crop_scale=(0.35, 1.0),
            flip=True,
            mean=preprocessing.mean,
            std=preprocessing.std,
        ),
        model=ModelConfig(backbone=model, pretrained=model),
        optimizer=OptimizerConfig(
            learning_rate=2e-3,
            warmup_epochs=0.5,
            weight_decay=2e-2,
            lr_mults=((r"^head/", 1.0), (r".*", 0.1)),
            ema_decay=0.99,
        ),
        evaluation=EvaluationConfig(batch_size=100),
    )
