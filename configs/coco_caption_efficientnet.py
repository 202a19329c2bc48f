"""The captioner of `coco_caption` with an EfficientNet as its encoder.

    python -m jaxtag.prepare --dataset=coco_captions --source=COCO
    python -m jaxtag.train --config=coco_caption_efficientnet --workdir=runs/coco_efficientnet

Smoke run: --config.total_steps=20 --config.batch_size=8. Hardware: one accelerator of 16 GB.
Expected: not yet measured (full COCO).
"""

from jaxtag.config.schema import Config
from jaxtag.configs import coco_caption_resnet50


def get_config(backbone: str = "efficientnet_b0", image_size: int = 224) -> Config:
    return coco_caption_resnet50.get_config(backbone=backbone, image_size=image_size)
