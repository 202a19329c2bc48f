"""Multi-label tagging of COCO's 80 categories, with the recipe of voc2007_tag.

    python -m jaxtag.prepare --dataset=coco_tags --source=COCO
    python -m jaxtag.train --config=coco_tag --workdir=runs/coco_tags \\
        --config.model.pretrained=resnet50.safetensors
    python -m jaxtag.evaluate --workdir=runs/coco_tags

Smoke run: --config.total_steps=5 --config.batch_size=8. Hardware: one accelerator, or many.
Expected: not yet measured.
"""

from jaxtag.config.schema import Config
from jaxtag.configs import voc2007_tag


def get_config(model: str = "resnet50", head: str = "query", image_size: int = 448) -> Config:
    config = voc2007_tag.get_config(model, head, image_size)
    config.data.dataset = "coco_tags"
    config.evaluate_every = config.checkpoint_every = 2000
    return config
