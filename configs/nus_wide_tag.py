"""Multi-label tagging of NUS-WIDE's 81 concepts (Chua et al. 2009), with the recipe of voc2007_tag.

    python -m jaxtag.prepare --dataset=nus_wide --source=NUS-WIDE
    python -m jaxtag.train --config=nus_wide_tag --workdir=runs/nus_wide \\
        --config.model.pretrained=resnet50.safetensors
    python -m jaxtag.evaluate --workdir=runs/nus_wide

Smoke run: --config.total_steps=5 --config.batch_size=8. Hardware: one accelerator, or many.
Expected: not yet measured.
"""

from jaxtag.config.schema import Config
from jaxtag.configs import voc2007_tag


def get_config(model: str = "resnet50", head: str = "query", image_size: int = 448) -> Config:
    config = voc2007_tag.get_config(model, head, image_size)
    config.data.dataset = "nus_wide"
    config.evaluate_every = config.checkpoint_every = 2000
    return config
