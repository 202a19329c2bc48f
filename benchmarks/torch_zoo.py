"""The peer's models of `zoo_step`: of transformers or timm, and plain definitions of the others."""

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F

Loss = Callable[[nn.Module, torch.Tensor, torch.Tensor], torch.Tensor]


def build(name: str, classes: int, timm: bool = False) -> tuple[nn.Module, Loss]:
    """The model (of transformers, or of timm), and its loss of (model, pixels, labels)."""
    torch.manual_seed(0)
    if name == "capsnet":
        return CapsNet(classes), margin_loss
    if name == "airbench94":
        return Airbench(classes), cross_entropy
    if timm:
        import timm as library

        constructors = {
            "vit_base_patch16": "vit_base_patch16_224",
            "vit_base_patch16_gap": "vit_base_patch16_gap_224",
        }
        return library.create_model(
            constructors.get(name, name), num_classes=classes
        ), cross_entropy
    return Logits(_of_transformers(name, classes)), cross_entropy


def cross_entropy(model: nn.Module, pixels: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(model(pixels), labels)


def margin_loss(model: nn.Module, pixels: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    lengths = model(pixels)
    present = F.one_hot(labels, lengths.shape[-1])
    loss = present * F.relu(0.9 - lengths) ** 2 + 0.5 * (1 - present) * F.relu(lengths - 0.1) ** 2
    return loss.sum(-1).mean()


class Logits(nn.Module):
    """A model of transformers that gives its logits alone."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.model(pixels).logits


def _of_transformers(name: str, classes: int) -> nn.Module:
    import transformers as t

    if name == "resnet50":
        return t.ResNetForImageClassification(t.ResNetConfig(num_labels=classes))
    if name == "mobilenet_v2":
        config = t.MobileNetV2Config(num_labels=classes, tf_padding=False)
        return t.MobileNetV2ForImageClassification(config)
    if name == "efficientnet_b0":
        scales = {"width_coefficient": 1.0, "depth_coefficient": 1.0, "hidden_dim": 1280}
        config = t.EfficientNetConfig(**scales, image_size=224, num_labels=classes)
        return t.EfficientNetForImageClassification(config)
    if name == "vit_small_patch16":
        sizes = {"hidden_size": 384, "num_attention_heads": 6, "intermediate_size": 1536}
        return t.ViTForImageClassification(t.ViTConfig(**sizes, num_labels=classes))
    raise ValueError(f"{name} is not one of the models compared with transformers")


class CapsNet(nn.Module):
    """Sabour et al. 2017, for 28x28 pictures of one channel; three iterations of routing."""

    def __init__(self, classes: int):
        super().__init__()
        self.conv = nn.Conv2d(1, 256, 9)
        self.primary = nn.Conv2d(256, 256, 9, stride=2)
        self.weights = nn.Parameter(0.01 * torch.randn(1152, classes, 8, 16))

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        grid = self.primary(F.relu(self.conv(pixels)))
        capsules = grid.reshape(len(pixels), 32, 8, -1).permute(0, 3, 1, 2).reshape(-1, 1152, 8)
        votes = torch.einsum("bnd,ncde->bnce", squash(capsules), self.weights)
        logits = votes.new_zeros(votes.shape[:3])
        for _ in range(2):
            classes = squash(torch.einsum("bnc,bnce->bce", logits.softmax(-1), votes))
            logits = logits + torch.einsum("bnce,bce->bnc", votes, classes)
        classes = squash(torch.einsum("bnc,bnce->bce", logits.softmax(-1), votes))
        return (classes.square().sum(-1) + 1e-9).sqrt()


def squash(x: torch.Tensor) -> torch.Tensor:
    square = x.square().sum(-1, keepdim=True)
    return x * square / (1 + square) / (square + 1e-9).sqrt()


class Airbench(nn.Module):
    """The network of Jordan 2024, arXiv:2404.00498."""

    def __init__(self, classes: int):
        super().__init__()
        widths, channels = (64, 256, 256), 24
        layers: list[nn.Module] = [nn.Conv2d(3, channels, 2), nn.GELU()]
        for width in widths:
            layers += [nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.MaxPool2d(2)]
            layers += [nn.BatchNorm2d(width), nn.GELU()]
            layers += [nn.Conv2d(width, width, 3, padding=1, bias=False)]
            layers += [nn.BatchNorm2d(width), nn.GELU()]
            channels = width
        self.body = nn.Sequential(*layers, nn.MaxPool2d(3))
        self.head = nn.Linear(channels, classes, bias=False)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(pixels).flatten(1)) / 9
