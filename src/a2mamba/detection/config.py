"""Every number of the two detectors, by name. The defaults are the protocol behind the paper's Table IV.

Where torchvision's Mask R-CNN and that protocol (Swin's, run with mmdetection) differ, there is a field for it, and
:meth:`DetectorConfig.torchvision_defaults` sets them all to torchvision's side. What is the same in both is not a
field, apart from thresholds and sizes that users change.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal

from a2mamba.field_checks import at_least, fraction, one_of

Stds = tuple[float, float, float, float]


@dataclass(frozen=True, kw_only=True)
class RPNConfig:
    """The region proposal network.

    Raises:
        ValueError: a value out of its range; the message names the field.
    """

    anchor_sizes: tuple[float, ...] = (32.0, 64.0, 128.0, 256.0, 512.0)
    """square root of an anchor's area in pixels, one a level: 8 times the stride"""
    aspect_ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
    """height over width of the anchors of every position"""
    round_anchors: bool = False
    """round the corners of the anchor at the origin to integers, as torchvision does"""
    anchor_strides: Literal["fixed", "from_image"] = "fixed"
    """distance of anchors: the level's stride, or padded image size // map size, as torchvision does"""
    border_tolerance: float | None = None
    """anchors that leave the image by more than this many pixels are not trained on; None: all are"""
    positive_iou: float = 0.7
    """anchors with at least this IoU with an object are positive"""
    negative_iou: float = 0.3
    """anchors with a lower IoU than this with every object are negative"""
    low_quality_iou: float | None = 0.3
    """an object's best anchors are positive too if their IoU is at least this; None: they are not"""
    low_quality_overwrites: bool = True
    """such an anchor learns the object it is best for; False: the object it overlaps most, as in torchvision"""
    batch_per_image: int = 256
    """anchors sampled in an image for the losses"""
    positive_fraction: float = 0.5
    """largest part of them that is positive"""
    smooth_l1_beta: float = 0.0
    """where the box loss turns from quadratic to linear; 0 is the L1 loss"""
    pre_nms_train: int = 2000
    """best proposals of a level that go into non-maximum suppression, in training"""
    pre_nms_test: int = 1000
    """the same in evaluation"""
    post_nms_train: int = 1000
    """best proposals of an image that are kept after it, in training"""
    post_nms_test: int = 1000
    """the same in evaluation"""
    nms_iou: float = 0.7
    """a proposal is suppressed by a better one of its level with a higher IoU than this"""
    min_box_size: float = 0.0
    """proposals with a shorter side, in pixels, are dropped"""
    score_threshold: float = 0.0
    """proposals with a lower objectness probability are dropped"""

    def __post_init__(self) -> None:
        if not self.anchor_sizes or min(self.anchor_sizes) <= 0:
            raise ValueError(f"anchor_sizes={self.anchor_sizes}: expected one positive size a level")
        if not self.aspect_ratios or min(self.aspect_ratios) <= 0:
            raise ValueError(f"aspect_ratios={self.aspect_ratios}: expected positive ratios")
        one_of(self, "anchor_strides", ("fixed", "from_image"))
        fraction(self, "positive_iou", "negative_iou", "positive_fraction", "nms_iou", "score_threshold")
        if self.negative_iou > self.positive_iou:
            raise ValueError(f"negative_iou={self.negative_iou}: expected at most positive_iou={self.positive_iou}")
        if self.low_quality_iou is not None:
            fraction(self, "low_quality_iou")
        at_least(self, 0, "smooth_l1_beta", "min_box_size")
        at_least(self, 1, "batch_per_image", "pre_nms_train", "pre_nms_test", "post_nms_train", "post_nms_test")


@dataclass(frozen=True, kw_only=True)
class RoIConfig:
    """Box and mask heads. Each has as many stages as ``iou_thresholds`` has numbers: one, or a cascade's three.

    Raises:
        ValueError: a value out of its range; the message names the field.
    """

    sampling_ratio: int = 0
    """points an axis in a cell of RoIAlign; 0: as many as the cell is pixels wide"""
    aligned: bool = True
    """shift RoIAlign by half a pixel, so that it is exact; torchvision's detectors do not"""
    box_pool_size: int = 7
    """side of a box head's input"""
    mask_pool_size: int = 14
    """side of a mask head's input; its output is twice as wide"""
    iou_thresholds: tuple[float, ...] = (0.5,)
    """proposals with at least this IoU with an object are positive, the others negative; one a stage"""
    delta_stds: tuple[Stds, ...] = ((0.1, 0.1, 0.2, 0.2),)
    """units of the box deltas (x, y, width, height), one group a stage"""
    stage_weights: tuple[float, ...] = (1.0,)
    """weight of a stage's three losses"""
    low_quality_matches: bool = True
    """an object's best proposal learns that object where its IoU is at least the threshold, even if it overlaps
    another object more"""
    refine_with: Literal["assigned", "predicted"] = "assigned"
    """between stages of training, a positive box is moved by the deltas of its object's class, or of the class that
    is predicted; a negative one always by those of the best foreground class"""
    batch_per_image: int = 512
    """proposals sampled in an image for the losses of a stage"""
    positive_fraction: float = 0.25
    """largest part of them that is positive"""
    add_ground_truth: bool = True
    """the objects' own boxes are among the proposals that are sampled from"""
    box_loss: Literal["smooth_l1", "giou"] = "smooth_l1"
    """smooth L1 on deltas, or generalized IoU on decoded boxes"""
    smooth_l1_beta: float = 0.0
    """where smooth L1 turns from quadratic to linear; 0 is the L1 loss"""
    box_loss_weight: float = 1.0
    """factor of the box loss, beside the stage's"""
    clamp_both_sides: bool = True
    """limit logarithmic width and height deltas to +-ln(1000 / 16); False: from above only, as torchvision does; for
    proposals too"""
    box_convs: int = 0
    """3 x 3 convolutions with batch norm at the start of a box head"""
    box_conv_width: int = 256
    """their channels; without effect while box_convs is 0"""
    box_fcs: int = 2
    """linear layers after them"""
    box_fc_width: int = 1024
    """outputs of each"""
    mask_convs: int = 4
    """3 x 3 convolutions at the start of a mask head"""
    mask_width: int = 256
    """their channels, and those of the transposed convolution after them"""
    mask_target_aligned: bool = True
    """sample the true masks with the half-pixel shift"""
    mask_target_threshold: float | None = 0.5
    """mask targets are 1 from this coverage on, else 0; None keeps the coverage, as torchvision does"""
    score_threshold: float = 0.05
    """detections need a higher probability"""
    nms_iou: float = 0.5
    """a detection is suppressed by a better one of its class with a higher IoU than this"""
    detections_per_image: int = 100
    """best detections that are kept"""
    min_box_size: float = 0.0
    """detections with a shorter side, in pixels of the resized image, are dropped"""

    def __post_init__(self) -> None:
        at_least(self, 0, "sampling_ratio", "box_convs", "mask_convs", "smooth_l1_beta", "box_loss_weight")
        at_least(self, 0, "min_box_size")
        at_least(self, 1, "box_pool_size", "mask_pool_size", "batch_per_image", "detections_per_image")
        at_least(self, 1, "box_conv_width", "box_fcs", "box_fc_width", "mask_width")
        fraction(self, "positive_fraction", "score_threshold", "nms_iou")
        if not self.iou_thresholds or not all(0 <= value <= 1 for value in self.iou_thresholds):
            raise ValueError(f"iou_thresholds={self.iou_thresholds}: expected one number from 0 to 1 a stage")
        for name in ("delta_stds", "stage_weights"):
            if len(getattr(self, name)) != len(self.iou_thresholds):
                raise ValueError(
                    f"{name}={getattr(self, name)}: expected {len(self.iou_thresholds)}, one for each of "
                    f"iou_thresholds={self.iou_thresholds}"
                )
        if not all(len(stds) == 4 and min(stds) > 0 for stds in self.delta_stds):
            raise ValueError(f"delta_stds={self.delta_stds}: expected four positive numbers a stage")
        if min(self.stage_weights) < 0:
            raise ValueError(f"stage_weights={self.stage_weights}: expected 0 or more")
        one_of(self, "refine_with", ("assigned", "predicted"))
        one_of(self, "box_loss", ("smooth_l1", "giou"))
        if self.mask_target_threshold is not None:
            fraction(self, "mask_target_threshold")

    @property
    def stages(self) -> int:
        """Number of box heads, and of mask heads."""
        return len(self.iou_thresholds)


@dataclass(frozen=True, kw_only=True)
class DetectorConfig:
    """A whole detector but for its backbone and number of classes; by default Mask R-CNN as in the paper's Table IV.

    Raises:
        ValueError: a value out of its range; the message names the field.
    """

    min_size: int = 800
    """short side in pixels that images are resized to in evaluation"""
    max_size: int = 1333
    """longest side that this may lead to; the whole image becomes smaller otherwise"""
    resize_in_training: bool = False
    """resize training images and targets like this too; the multi-scale loader has done so already"""
    resize_rounding: Literal["nearest", "floor"] = "nearest"
    """new sides are rounded like this; torchvision rounds down"""
    size_divisor: int = 32
    """batches are padded, right and below, to multiples of this"""
    image_mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    """per channel, subtracted from values in [0, 1]"""
    image_std: tuple[float, ...] = (0.229, 0.224, 0.225)
    """per channel, divides after that"""
    freeze_backbone_norm: bool = False
    """keep the backbone's batch norms as they are loaded: statistics, weights and biases"""
    output_norms: bool = False
    """normalize the channels of each map between backbone and pyramid"""
    fpn_width: int = 256
    """channels of the feature pyramid"""
    fpn_init: Literal["xavier", "kaiming"] = "xavier"
    """initial weights of the pyramid: Xavier-uniform, or torchvision's Kaiming-uniform with a = 1"""
    masks: bool = True
    """find masks too; without them there are no mask heads, targets need none, and results have none"""
    paste: Literal["grid", "box"] = "grid"
    """masks are sampled at the image's pixel centers, or resized to an integer box, as torchvision does"""
    rpn: RPNConfig = field(default_factory=RPNConfig)
    """proposals"""
    roi: RoIConfig = field(default_factory=RoIConfig)
    """boxes and masks"""

    def __post_init__(self) -> None:
        at_least(self, 1, "min_size", "max_size", "size_divisor", "fpn_width")
        if self.max_size < self.min_size:
            raise ValueError(f"max_size={self.max_size}: expected at least min_size={self.min_size}")
        one_of(self, "resize_rounding", ("nearest", "floor"))
        one_of(self, "fpn_init", ("xavier", "kaiming"))
        one_of(self, "paste", ("grid", "box"))
        if len(self.image_mean) != len(self.image_std) or min(self.image_std) <= 0:
            raise ValueError(
                f"image_mean={self.image_mean}, image_std={self.image_std}: expected as many of both, and positive stds"
            )

    @classmethod
    def mask_rcnn(cls) -> DetectorConfig:
        """Return Mask R-CNN by Swin's protocol (paper, Table IV)."""
        return cls()

    @classmethod
    def cascade_mask_rcnn(cls) -> DetectorConfig:
        """Return Cascade Mask R-CNN by Swin's protocol, with the heads of four convolutions (paper, Table V)."""
        return cls(
            rpn=RPNConfig(border_tolerance=0.0, smooth_l1_beta=1 / 9, post_nms_train=2000),
            roi=RoIConfig(
                iou_thresholds=(0.5, 0.6, 0.7),
                delta_stds=((0.1, 0.1, 0.2, 0.2), (0.05, 0.05, 0.1, 0.1), (0.033, 0.033, 0.067, 0.067)),
                stage_weights=(1.0, 0.5, 0.25),
                low_quality_matches=False,
                box_loss="giou",
                box_loss_weight=10.0,
                box_convs=4,
                box_fcs=1,
            ),
        )

    @classmethod
    def torchvision_defaults(cls) -> DetectorConfig:
        """Return Mask R-CNN as ``torchvision.models.detection.MaskRCNN`` is by default.

        Its model builders freeze the backbone's batch norms besides: ``freeze_backbone_norm``.
        """
        return cls(
            resize_in_training=True,
            resize_rounding="floor",
            fpn_init="kaiming",
            paste="box",
            rpn=RPNConfig(
                round_anchors=True,
                anchor_strides="from_image",
                low_quality_iou=0.0,
                low_quality_overwrites=False,
                smooth_l1_beta=1 / 9,
                post_nms_train=2000,
                min_box_size=1e-3,
            ),
            roi=RoIConfig(
                sampling_ratio=2,
                aligned=False,
                low_quality_matches=False,
                smooth_l1_beta=1 / 9,
                clamp_both_sides=False,
                mask_target_aligned=False,
                mask_target_threshold=None,
                min_box_size=1e-2,
            ),
        )

    def narrowed(
        self, *, fpn_width: int, box_fc_width: int, box_conv_width: int | None = None, mask_width: int | None = None
    ) -> DetectorConfig:
        """Return the same detector with narrow parts, for small data; convolutions are as wide as the pyramid."""
        changes: dict[str, Any] = {
            "box_fc_width": box_fc_width,
            "box_conv_width": box_conv_width or fpn_width,
            "mask_width": mask_width or fpn_width,
        }
        return replace(self, fpn_width=fpn_width, roi=replace(self.roi, **changes))
