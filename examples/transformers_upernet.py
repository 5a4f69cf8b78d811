"""transformers' UperNet on a saved backbone: python examples/transformers_upernet.py FOLDER."""

import sys

import torch
from transformers import TimmBackboneConfig, UperNetConfig, UperNetForSemanticSegmentation

import a2mamba

folder = sys.argv[1]
backbone = a2mamba.load(folder).run.model.name
config = UperNetConfig(
    backbone_config=TimmBackboneConfig(backbone=backbone, out_indices=[0, 1, 2, 3]),
    hidden_size=64,
    auxiliary_in_channels=a2mamba.create_model(backbone, features_only=True, device="meta").feature_info.channels()[2],
    num_labels=5,
)
model = UperNetForSemanticSegmentation(config)
print(a2mamba.load_checkpoint(model.backbone._backbone, f"{folder}/model.safetensors"))

images, labels = torch.randn(2, 3, 64, 96), torch.randint(0, 5, (2, 64, 96))
output = model(pixel_values=images, labels=labels)
output.loss.backward()
print("logits", tuple(output.logits.shape))
