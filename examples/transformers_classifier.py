"""A saved folder in transformers: python examples/transformers_classifier.py FOLDER IMAGE."""

import sys

import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForImageClassification, pipeline

import a2mamba  # noqa: F401  (registers the models with timm, which transformers asks)

folder, image = sys.argv[1:]
model = AutoModelForImageClassification.from_pretrained(folder).eval()
processor = AutoImageProcessor.from_pretrained(folder)
with torch.inference_mode():
    logits = model(**processor(Image.open(image).convert("RGB"), return_tensors="pt")).logits
best = int(logits.argmax())
print(f"{model.config.id2label[best]}: {logits.softmax(1)[0, best]:.4f}")

# The same in one line.
answer = pipeline("image-classification", model=folder)(image)[0]
print(f"{answer['label']}: {answer['score']:.4f}")
