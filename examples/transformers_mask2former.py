"""transformers' Mask2Former on a saved backbone: python examples/transformers_mask2former.py FOLDER."""

import sys

import torch
from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation, TimmBackboneConfig

import a2mamba

folder = sys.argv[1]
backbone = a2mamba.load(folder).run.model.name
config = Mask2FormerConfig(
    backbone_config=TimmBackboneConfig(backbone=backbone, out_indices=[0, 1, 2, 3]),
    feature_size=32,
    mask_feature_size=32,
    hidden_dim=32,
    encoder_feedforward_dim=64,
    encoder_layers=1,
    decoder_layers=2,
    dim_feedforward=64,
    num_attention_heads=4,
    num_queries=10,
    num_labels=5,
    train_num_points=256,
)
model = Mask2FormerForUniversalSegmentation(config)
encoder = model.model.pixel_level_module.encoder
print(a2mamba.load_checkpoint(encoder._backbone, f"{folder}/model.safetensors"))

masks = torch.zeros(2, 64, 96)
masks[0, :32], masks[1, 32:] = 1, 1
output = model(pixel_values=torch.randn(1, 3, 64, 96), mask_labels=[masks], class_labels=[torch.tensor([1, 4])])
output.loss.backward()
print("classes", tuple(output.class_queries_logits.shape), "masks", tuple(output.masks_queries_logits.shape))
