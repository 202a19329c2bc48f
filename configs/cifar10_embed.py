"""Deep metric learning on CIFAR-10: a small network (Jordan 2024, arXiv:2404.00498), any loss.

    python -m jaxtag.prepare --dataset=cifar10 --source=CIFAR10
    python -m jaxtag.train --config=cifar10_embed --workdir=runs/cifar10_embed
    python -m jaxtag.train --config=cifar10_embed:loss=proxy_anchor --workdir=runs/proxies

Losses: contrastive, triplet_all, triplet_hard, triplet_semi_hard, n_pair, multi_similarity,
proxy_anchor, arcface (see jaxtag.losses.metric). Training and evaluation know the same ten
classes, other pictures. Smoke run: --config.total_steps=5. Hardware: 2 CPU cores within an hour, a
GPU within a minute. Expected: recall@1 of 0.26 to 0.52 after half an epoch, by the loss
(benchmarks/README.md); after eight not yet measured.
"""

from jaxtag.config.schema import Config, OptimizerConfig
from jaxtag.configs import cifar10_airbench
from jaxtag.tasks.embed.config import EmbedConfig


def get_config(loss: str = "multi_similarity", total_epochs: float = 8.0) -> Config:
    config = cifar10_airbench.get_config(total_epochs=total_epochs)
    config.batch_size = 500
    config.task = EmbedConfig(loss=loss, embedding_dim=64, samples_per_class=50)
    config.optimizer = OptimizerConfig(
        name="adamw",
        learning_rate=2e-3,
        schedule="triangular",
        weight_decay=1e-2,
        lr_mults=((r"whiten/kernel$", 0.0), (r".*", 1.0)),
        ema_decay=0.98,
    )
    config.augmentation.alternating_flip = False  # balanced batches make no passes over the data
    config.evaluation.tta_flip, config.evaluation.tta_shift = False, 0
    return config
