"""What the paper's columns of parameters and multiply-accumulates measure."""

from __future__ import annotations

from torch import Tensor, nn

from a2mamba.detection.detector import Detector


class DummyForward(nn.Module):
    """A detector's work for dummy proposals: a fixed number of operations, which ``analysis.flops`` can count.

    Every box head computes 1000 boxes and every mask head 100, whatever is in the image: mmdetection's counting
    convention, behind the paper's Tables IV and V at 800 x 1280.

        flops(DummyForward(detector), (3, 800, 1280))

    Args:
        detector: is not changed.
        boxes: for each box head, and image.
        masks: for each mask head, and image.
    """

    def __init__(self, detector: Detector, *, boxes: int = 1000, masks: int = 100) -> None:
        super().__init__()
        self.detector = detector
        self.boxes = boxes
        self.masks = masks

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W), normalized -> the outputs of all heads."""
        levels = self.detector.levels(images)
        logits, deltas = self.detector.rpn.head(levels)
        outputs = [*logits, *deltas]
        heads = self.detector.roi_heads
        width, batch = levels[0].shape[1], len(images)
        for stage in heads.stage_list():
            side = heads.config.box_pool_size
            outputs += stage.box_head(levels[0].new_zeros(batch * self.boxes, width, side, side))
        side = heads.config.mask_pool_size
        for mask_head in heads.mask_heads():
            outputs.append(mask_head(levels[0].new_zeros(batch * self.masks, width, side, side)))
        return outputs


def parameters_by_module(detector: Detector) -> dict[str, int]:
    """Return the number of parameters of backbone, fpn, rpn, and of the box and mask heads of all stages."""
    stages = detector.roi_heads.stage_list()
    modules: dict[str, list[nn.Module]] = {
        "backbone": [detector.backbone],
        "fpn": [detector.fpn],
        "rpn": [detector.rpn],
        "box_heads": [stage.box_head for stage in stages],
        "mask_heads": list(detector.roi_heads.mask_heads()),
    }
    return {name: sum(p.numel() for m in parts for p in m.parameters()) for name, parts in modules.items()}
