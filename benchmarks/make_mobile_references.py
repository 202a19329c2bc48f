"""Makes the reference files of MobileNet and EfficientNet: what other libraries compute.

Needs torch, torchvision, timm, transformers, safetensors, numpy (nothing of jaxtag):

    python benchmarks/make_mobile_references.py tests/references

The committed files were made with torch 2.13.0, torchvision 0.28.0, timm 1.0.31 and transformers
5.24.0 on a CPU. The weights are drawn from a seed, by name, so that the files need not hold them.
"""

import argparse
import copy
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import drawn
import numpy as np
import timm
import torch
import torchvision
import transformers
from safetensors.numpy import save_file
from timm.models._efficientnet_builder import decode_arch_def
from torch import nn
from torchvision.models.efficientnet import _efficientnet_conf

CLASSES = 5
BATCH = 4
SIZE = (37, 51)
EVEN_SIZE = (32, 48)  # "same" padding differs between odd and even

# Where an activation's slope jumps, a rounding decides the gradient.
KINKS = {
    "ReLU": (0.0,), "ReLU6": (0.0, 6.0), "Hardswish": (-3.0, 3.0),
    "Hardsigmoid": (-3.0, 3.0), "HardSigmoid": (-3.0, 3.0),
}  # fmt: skip
LEAST_DISTANCE = 1e-5

# timm's blocks: kind_repeats_kernel_stride_expansion_channels_squeeze-and-excite_activation.
TIMM_V1 = [["dsa_r1_k3_s1_c16"], ["dsa_r2_k3_s2_c24"]]
TIMM_V2 = [["ds_r1_k3_s2_c16"], ["ir_r2_k3_s2_e6_c24"]]
TIMM_V3 = [
    ["ds_r1_k3_s2_e1_c8_se0.25_nre"],
    ["ir_r1_k5_s2_e4_c16_se0.25", "ir_r1_k3_s1_e2_c16"],
    ["cn_r1_k1_s1_c96"],
]
TIMM_EFFICIENTNET = [["ds_r1_k3_s1_e1_c16_se0.25"], ["ir_r2_k5_s2_e6_c24_se0.25"]]
TIMM_LITE = [["ds_r1_k3_s2_e1_c16"], ["ir_r2_k5_s2_e2_c24"], ["ir_r1_k3_s2_e2_c32"]]


def timm_model(kind: type, blocks: list, **fields) -> nn.Module:
    return kind(decode_arch_def(blocks), num_classes=CLASSES, **fields)


def timm_v3() -> nn.Module:
    """As its `tf_mobilenetv3_large_100`: padding and norm of TensorFlow."""
    excite = partial(
        timm.models._efficientnet_blocks.SqueezeExcite,
        gate_layer="hard_sigmoid",
        force_act_layer=nn.ReLU,
        rd_round_fn=timm.models._efficientnet_builder.round_channels,
    )
    return timm_model(
        timm.models.mobilenetv3.MobileNetV3, TIMM_V3, num_features=64, stem_size=16,
        se_layer=excite, act_layer=nn.Hardswish, pad_type="same",
        norm_layer=partial(nn.BatchNorm2d, eps=1e-3),
    )  # fmt: skip


def torchvision_efficientnet() -> nn.Module:
    stages, _ = _efficientnet_conf("efficientnet_b0", width_mult=0.125, depth_mult=1.0)
    kind = torchvision.models.EfficientNet
    return kind(stages, dropout=0.0, stochastic_depth_prob=0.0, num_classes=CLASSES)


def transformers_efficientnet() -> nn.Module:
    """For pictures of 38x70: it is told which of its blocks get an odd number of pixels."""
    channels = [64, 24, 40, 40, 96, 96, 128]
    config = transformers.EfficientNetConfig(
        width_coefficient=0.25, depth_coefficient=0.4, hidden_dim=320, out_channels=channels,
        in_channels=[32, *channels[:-1]], depthwise_padding=[1, 3, 7], dropout_rate=0.0,
        drop_connect_rate=0.0, num_labels=CLASSES,
    )  # fmt: skip
    return transformers.EfficientNetForImageClassification(config)


TIMM = timm.models.efficientnet.EfficientNet
MODELS: dict[str, Callable[[], nn.Module]] = {
    "mobilenet_v1_timm": lambda: timm_model(
        TIMM, TIMM_V1, num_features=0, stem_size=32, act_layer=nn.ReLU6
    ),
    "mobilenet_v1_transformers": lambda: transformers.MobileNetV1ForImageClassification(
        transformers.MobileNetV1Config(
            depth_multiplier=0.1, classifier_dropout_prob=0.0, num_labels=CLASSES
        )
    ),
    "mobilenet_v2_torchvision": lambda: torchvision.models.mobilenet_v2(
        width_mult=0.1, dropout=0.0, num_classes=CLASSES
    ),
    "mobilenet_v2_timm": lambda: timm_model(
        TIMM, TIMM_V2, num_features=1280, stem_size=8, act_layer=nn.ReLU6
    ),
    "mobilenet_v2_transformers": lambda: transformers.MobileNetV2ForImageClassification(
        transformers.MobileNetV2Config(
            depth_multiplier=0.28, classifier_dropout_prob=0.0, num_labels=CLASSES
        )
    ),
    "mobilenet_v3_large_torchvision": lambda: torchvision.models.mobilenet_v3_large(
        width_mult=0.125, dropout=0.0, num_classes=CLASSES
    ),
    "mobilenet_v3_small_torchvision": lambda: torchvision.models.mobilenet_v3_small(
        width_mult=0.125, dropout=0.0, num_classes=CLASSES
    ),
    "mobilenet_v3_timm": timm_v3,
    "efficientnet_torchvision": torchvision_efficientnet,
    "efficientnet_timm": lambda: timm_model(
        TIMM, TIMM_EFFICIENTNET, num_features=320, stem_size=8, act_layer=nn.SiLU, pad_type="same",
        norm_layer=partial(nn.BatchNorm2d, eps=1e-3),
    ),
    "efficientnet_transformers": transformers_efficientnet,
    "efficientnet_lite_timm": lambda: timm_model(
        TIMM, TIMM_LITE, num_features=1280, stem_size=32, act_layer=nn.ReLU6, pad_type="same",
        norm_layer=partial(nn.BatchNorm2d, eps=1e-3),
    ),
}  # fmt: skip

# Names and shapes of the full-size models: library/our name -> what makes the model.
FULL_SIZE: dict[str, Callable[[], nn.Module]] = {
    "timm/mobilenet_v1": partial(timm.create_model, "mobilenetv1_100"),
    "timm/mobilenet_v2": partial(timm.create_model, "mobilenetv2_100"),
    "timm/mobilenet_v3_large": partial(timm.create_model, "mobilenetv3_large_100"),
    "timm/mobilenet_v3_small": partial(timm.create_model, "mobilenetv3_small_100"),
    "timm/efficientnet_b0": partial(timm.create_model, "efficientnet_b0"),
    "timm/efficientnet_b7": partial(timm.create_model, "tf_efficientnet_b7"),
    "timm/efficientnet_lite0": partial(timm.create_model, "tf_efficientnet_lite0"),
    "timm/efficientnet_lite4": partial(timm.create_model, "tf_efficientnet_lite4"),
    "torchvision/mobilenet_v2": torchvision.models.mobilenet_v2,
    "torchvision/mobilenet_v3_large": torchvision.models.mobilenet_v3_large,
    "torchvision/mobilenet_v3_small": torchvision.models.mobilenet_v3_small,
    "torchvision/efficientnet_b0": torchvision.models.efficientnet_b0,
    "torchvision/efficientnet_b7": torchvision.models.efficientnet_b7,
    "transformers/mobilenet_v1": lambda: transformers.MobileNetV1ForImageClassification(
        transformers.MobileNetV1Config(num_labels=1000)
    ),
    "transformers/mobilenet_v2": lambda: transformers.MobileNetV2ForImageClassification(
        transformers.MobileNetV2Config(num_labels=1000)
    ),
    "transformers/efficientnet_b7": lambda: transformers.EfficientNetForImageClassification(
        transformers.EfficientNetConfig(num_labels=1000)
    ),
}


def shapes(model: nn.Module) -> dict[str, list[int]]:
    return {
        name: list(tensor.shape)
        for name, tensor in model.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }


def logits(model: nn.Module, images: np.ndarray) -> torch.Tensor:
    output = model(torch.from_numpy(images.transpose(0, 3, 1, 2).astype(np.float64)))
    return getattr(output, "logits", output)


def distance_to_kinks(model: nn.Module, images: np.ndarray) -> float:
    """The least distance, in training, of an activation's input from where its slope jumps."""
    distances = [np.inf]

    def measure(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        for kink in KINKS[type(module).__name__]:
            distances.append((inputs[0] - kink).abs().min().item())

    activations = [module for module in model.modules() if type(module).__name__ in KINKS]
    handles = [module.register_forward_pre_hook(measure) for module in activations]
    with torch.no_grad():
        logits(model, images)
    for handle in handles:
        handle.remove()
    return min(distances)


def drawn_images(model: nn.Module, size: tuple[int, int]) -> np.ndarray:
    """The first pictures, by seed, whose gradients hang on no rounding."""
    for seed in range(1000):
        random = np.random.RandomState(seed)
        images = random.standard_normal((BATCH, *size, 3)).astype(np.float32)
        if distance_to_kinks(copy.deepcopy(model).train(), images) > LEAST_DISTANCE:
            return images
    raise RuntimeError("each of 1000 batches comes close to where a slope jumps")


def make_reference(path: Path, model: nn.Module) -> None:
    """Logits in inference, then one step in training: logits, gradients, running moments.

    Computed in float64, with weights and pictures of float32.
    """
    weights = drawn.weights(shapes(model))
    model.load_state_dict({n: torch.from_numpy(w) for n, w in weights.items()}, strict=False)
    model = model.double()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.1
    if isinstance(model, transformers.EfficientNetForImageClassification):
        size, others = (38, 70), []
    else:
        size, others = SIZE, [EVEN_SIZE]
    random = np.random.RandomState(1)
    images = drawn_images(model, size)
    pictures = {size: images}
    pictures |= {other: random.standard_normal((BATCH, *other, 3)) for other in others}
    tensors = {}
    for (height, width), batch in pictures.items():
        batch = batch.astype(np.float32)
        tensors[f"images/{height}x{width}"] = batch
        with torch.no_grad():
            tensors[f"logits/{height}x{width}"] = logits(model.eval(), batch).numpy()
    trained = logits(model.train(), images)
    factors = random.standard_normal(trained.shape).astype(np.float32)
    (trained * torch.from_numpy(factors)).mean().backward()
    tensors |= {"factors": factors, "trained_logits": trained.detach().numpy()}
    tensors |= {f"after/{n}": drawn.sampled(p.grad.numpy()) for n, p in model.named_parameters()}
    tensors |= {
        f"after/{n}": drawn.sampled(b.numpy()) for n, b in model.named_buffers() if "running" in n
    }
    print(path.name, {n: float(np.abs(t).mean()) for n, t in tensors.items() if "logits" in n})
    save_file({name: t.astype(np.float32) for name, t in tensors.items()}, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="where the files go")
    folder = parser.parse_args().folder
    for name, make in MODELS.items():
        make_reference(folder / f"{name}.safetensors", make())
    with torch.device("meta"):
        names = {name: shapes(make()) for name, make in FULL_SIZE.items()}
    lines = [f"{json.dumps(n)}: {json.dumps(s, separators=(',', ':'))}" for n, s in names.items()]
    (folder / "mobile_names.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
