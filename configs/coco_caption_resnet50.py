"""The captioner of `coco_caption` with a ResNet-50 as its encoder.

    python -m jaxtag.prepare --dataset=coco_captions --source=COCO
    python -m jaxtag.train --config=coco_caption_resnet50 --workdir=runs/coco_resnet50

Smoke run: --config.total_steps=20 --config.batch_size=8. Hardware: one accelerator of 16 GB.
Expected: not yet measured (full COCO).
"""

from jaxtag import models
from jaxtag.config.schema import Config, ModelConfig
from jaxtag.configs import coco_caption


def get_config(backbone: str = "resnet50", image_size: int = 224) -> Config:
    config = coco_caption.get_config(image_size=image_size)
    preprocessing = models.get_preprocessing(backbone)
    config.data.mean, config.data.std = preprocessing.mean, preprocessing.std
    config.model = ModelConfig(backbone=backbone, decoder_width=384, dropout=0.1)
    return config
