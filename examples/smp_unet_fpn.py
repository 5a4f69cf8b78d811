"""segmentation-models-pytorch's Unet and FPN on a saved backbone: python examples/smp_unet_fpn.py FOLDER."""

import sys

import segmentation_models_pytorch as smp
import torch

import a2mamba

folder = sys.argv[1]
backbone = a2mamba.load(folder).run.model.name
for network in (smp.Unet, smp.FPN):
    model = network(f"tu-{backbone}", encoder_weights=None, classes=5)  # released weights: encoder_weights=True
    print(a2mamba.load_checkpoint(model.encoder.model, f"{folder}/model.safetensors"))
    logits = model(torch.randn(2, 3, 64, 96))
    logits.mean().backward()
    print(network.__name__, tuple(logits.shape))
