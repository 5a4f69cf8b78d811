"""A saved folder in timm: python examples/timm_classifier.py FOLDER IMAGE."""

import sys

import timm
import torch
from PIL import Image

import a2mamba  # noqa: F401  (registers the models with timm)

folder, image = sys.argv[1:]
model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
with torch.inference_mode():
    probabilities = model(transform(Image.open(image).convert("RGB"))[None]).softmax(1)[0]
names = model.pretrained_cfg["label_names"]
for probability, index in zip(*(values.tolist() for values in probabilities.topk(3)), strict=True):
    print(f"{names[index]}: {probability:.4f}")
