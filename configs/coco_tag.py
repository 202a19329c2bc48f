"""Multi-label tagging of COCO's 80 categories, with the recipe of voc2007_tag.

    python -m jaxtag.prepare --dataset=coco_tags --source=COCO
    python -m jaxtag.train --config=coco_tag --workdir=runs/coco_tags \\
        --config.model.weights=resnet50.safetensors
    python -m jaxtag.evaluate --workdir=runs/coco_tags

Smoke run: --config.total_steps=5 --config.batch_size=8. Hardware: one accelerator, or many.
Expected: not yet measured.
"""

from jaxtag.config import flags
from jaxtag.config.schema import Config


def get_config(model: str = "resnet50", head: str = "query", image_size: int = 448) -> Config:
    arguments = f"model={model},head={head},image_size={image_size}"
    config = flags.load(f"voc2007_tag:{arguments}")
    config.data.dataset = "coco_tags"
    config.evaluate_every = config.checkpoint_every = 2000
    return config
