"""Multi-label tagging of MIRFlickr-25K (Huiskes and Lew 2008), with the recipe of voc2007_tag.

    python -m jaxtag.prepare --dataset=mirflickr25k --source=mirflickr25k
    python -m jaxtag.train --config=mirflickr25k_tag --workdir=runs/mirflickr25k \\
        --config.model.pretrained=resnet50.safetensors
    python -m jaxtag.evaluate --workdir=runs/mirflickr25k

Smoke run: --config.total_steps=5 --config.batch_size=8. Hardware: one accelerator, or many.
Expected: not yet measured.
"""

from jaxtag.config.schema import Config
from jaxtag.configs import voc2007_tag


def get_config(model: str = "resnet50", head: str = "query", image_size: int = 448) -> Config:
    config = voc2007_tag.get_config(model, head, image_size)
    config.data.dataset = "mirflickr25k"
    config.evaluate_every = config.checkpoint_every = 500
    return config
