"""A tagger of one's own images, with a table of tags, from published ImageNet weights.

    python -m jaxtag.prepare --dataset=my_tags --source=FOLDER
    python -m jaxtag.train --config=my_tags --workdir=runs/my_tags

The backbone is fine-tuned as in `my_classes`; rare tags weigh more. Another data set:
--config.data.dataset=NAME. Smoke run: --config.total_steps=5. Hardware: 2 CPU cores. Expected: not
yet measured.
"""

from jaxtag.config.schema import Config
from jaxtag.configs import my_classes
from jaxtag.tasks.tag.config import TagConfig


def get_config(
    model: str = "efficientnet_lite0", image_size: int = 160, total_epochs: float = 8.0
) -> Config:
    config = my_classes.get_config(model, image_size, total_epochs)
    config.task = TagConfig(loss="binary_cross_entropy", max_pos_weight=10.0)
    config.data.dataset = "my_tags"
    return config
