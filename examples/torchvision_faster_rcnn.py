"""torchvision's Faster R-CNN on a saved backbone: python examples/torchvision_faster_rcnn.py FOLDER."""

import sys

import timm
import torch
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN
from torchvision.ops.feature_pyramid_network import FeaturePyramidNetwork, LastLevelMaxPool

import a2mamba  # noqa: F401  (registers the models with timm)


class PyramidWithFPN(nn.Module):
    """The maps of strides 4 to 32 and 64, all of the same width, by the names that torchvision expects."""

    def __init__(self, folder: str, width: int = 64) -> None:
        super().__init__()
        self.body = timm.create_model(f"local-dir:{folder}", pretrained=True, features_only=True)
        self.fpn = FeaturePyramidNetwork(self.body.feature_info.channels(), width, LastLevelMaxPool())
        self.out_channels = width

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """(B, 3, H, W) -> name -> (B, width, H / stride, W / stride)."""
        return self.fpn({str(i): x for i, x in enumerate(self.body(images))})


model = FasterRCNN(PyramidWithFPN(sys.argv[1]), num_classes=3, min_size=96, max_size=128)
images = [torch.rand(3, 80, 96), torch.rand(3, 96, 64)]
target = {"boxes": torch.tensor([[8.0, 8.0, 40.0, 48.0]]), "labels": torch.tensor([1])}
losses = model(images, [target, target])
sum(losses.values()).backward()
print("losses", ", ".join(losses))
model.eval()
with torch.inference_mode():
    print("detections", [tuple(found["boxes"].shape) for found in model(images)])
