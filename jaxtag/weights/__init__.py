"""Weights of this and other libraries (torchvision, timm, transformers), as safetensors, both ways.

model = jaxtag.create_model("resnet50", num_classes=1000)
variables = jaxtag.weights.load("checkpoint.safetensors or folder", model)
jaxtag.weights.save("resnet50.safetensors", model, variables, library="timm")
"""

from jaxtag.weights.loader import load
from jaxtag.weights.preprocessing import load_preprocessing
from jaxtag.weights.saver import save

__all__ = ["load", "load_preprocessing", "save"]
