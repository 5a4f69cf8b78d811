"""transformers' RT-DETR on a saved backbone: python examples/transformers_rtdetr.py FOLDER."""

import sys

import torch
from transformers import RTDetrConfig, RTDetrForObjectDetection, TimmBackboneConfig

import a2mamba

folder = sys.argv[1]
backbone = a2mamba.load(folder).run.model.name
channels = a2mamba.create_model(backbone, features_only=True, device="meta").feature_info.channels()
config = RTDetrConfig(
    backbone_config=TimmBackboneConfig(backbone=backbone, out_indices=[1, 2, 3]),
    encoder_in_channels=channels[1:],
    encoder_hidden_dim=32,
    encoder_ffn_dim=64,
    encoder_attention_heads=4,
    d_model=32,
    decoder_in_channels=[32, 32, 32],
    decoder_ffn_dim=64,
    decoder_layers=2,
    decoder_attention_heads=4,
    num_queries=20,
    num_denoising=0,
    num_labels=5,
)
model = RTDetrForObjectDetection(config)
print(a2mamba.load_checkpoint(model.model.backbone.model._backbone, f"{folder}/model.safetensors"))

target = {"class_labels": torch.tensor([1, 4]), "boxes": torch.tensor([[0.5, 0.5, 0.2, 0.3], [0.3, 0.4, 0.2, 0.2]])}
output = model(pixel_values=torch.randn(1, 3, 64, 96), labels=[target])
output.loss.backward()
print("logits", tuple(output.logits.shape), "boxes", tuple(output.pred_boxes.shape))
