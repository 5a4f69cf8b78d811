"""Which model of this package, or of timm, a row of a table is, and which command trains it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Task = Literal["classification", "segmentation", "detection"]


@dataclass(frozen=True)
class Run:
    """A training run that gives a row one of its results."""

    data: str
    """data set, as `Column.data`"""
    recipe: str
    model: str
    """name of the model that the run trains; of a segmentation network on another backbone, NETWORK on BACKBONE"""
    words: tuple[str, ...] = ()
    """what follows the recipe's name on the command line"""

    @property
    def command(self) -> str:
        """The command that trains; DIR is the folder of the data."""
        return " ".join(("a2mamba train", self.recipe, *self.words, "data.root=DIR"))

    def evaluation(self, sizes: Sequence[int]) -> str:
        """Return the command that evaluates a classifier at several image sizes; FILE is its checkpoint."""
        return f"a2mamba eval {self.recipe} --checkpoint FILE data.root=DIR --sizes {','.join(map(str, sizes))}"


@dataclass(frozen=True)
class Subject:
    """What a row is about."""

    model: str
    """name in this package or, of a baseline, in timm; of a system on such a backbone, SYSTEM on BACKBONE"""
    task: Task = "classification"
    ours: bool = True
    """whether this package has the network; timm has the backbones of baselines"""
    runs: tuple[Run, ...] = ()
    tested_sizes: tuple[int, ...] = ()
    """image sizes at which the trained network is evaluated; none: its own"""

    @property
    def commands(self) -> list[str]:
        """The commands that train the row and evaluate it at further sizes."""
        evaluations = [run.evaluation(self.tested_sizes) for run in self.runs] if self.tested_sizes else []
        return [run.command for run in self.runs] + evaluations


_LETTERS = {"N": "nano", "T": "tiny", "S": "small", "B": "base", "L": "large"}
_SEGMAN_RECIPES = {"T": "in1k_nano", "S": "in1k_small", "B": "in1k_base", "L": "in1k_large"}
"""A choice: SegMAN's encoders are trained by the recipe of the A2Mamba of their size."""


def _in1k(letter: str, *, paper: bool) -> Subject:
    """A2Mamba at 224; the paper's Large and the released one are two networks."""
    size = _LETTERS[letter]
    model = "a2mamba_large_paper" if letter == "L" and paper else f"a2mamba_{size}"
    return Subject(model, runs=(Run("imagenet", f"in1k_{size}", model, ("--paper",) if paper else ()),))


def _encoder(letter: str) -> Subject:
    model = f"segman_encoder_{_LETTERS[letter]}"
    return Subject(model, runs=(Run("imagenet", _SEGMAN_RECIPES[letter], model, (f"model.name={model}",)),))


def _weights(size: str) -> str:
    """Where a system's backbone begins: the released weights, or a run of one's own where there are none."""
    if size == "large_paper":
        return "model.backbone_checkpoint=runs/in1k_large/checkpoints/best.pt"
    return "model.pretrained_backbone=true"


def _size(letter: str) -> str:
    return "large_paper" if letter == "L" else _LETTERS[letter]


def _detector(kind: str, letter: str) -> Subject:
    size = _size(letter)
    model = f"{kind}_a2mamba_{size}"
    return Subject(model, "detection", runs=(Run("coco", f"{kind}_{size}_3x", model, (_weights(size),)),))


def _upernet(letter: str) -> Subject:
    size = _size(letter)
    model = f"upernet_a2mamba_{size}"
    return Subject(model, "segmentation", runs=(Run("ade20k", f"upernet_{size}_ade20k", model, (_weights(size),)),))


def _segmenter(family: str, letter: str) -> Subject:
    """SegMAN-V2 of Table VII has the paper's Large; of SegMAN's encoders no weights alone were released."""
    model = f"{family}_{_LETTERS[letter]}"
    begin = _weights(_size(letter)) if family == "segman_v2" else "model.backbone_checkpoint=FILE"
    runs = tuple(Run(data, f"{model}_{data}", model, (begin,)) for data in ("ade20k", "cityscapes", "coco_stuff"))
    return Subject(model, "segmentation", runs=runs)


def _in1k_384(letter: str) -> Subject:
    size = _LETTERS[letter]
    if letter == "L":
        return Subject(
            "a2mamba_large_paper", runs=(Run("imagenet", "in1k_384_large", "a2mamba_large_paper", ("--paper",)),)
        )
    return Subject(f"a2mamba_{size}", runs=(Run("imagenet", f"in1k_384_{size}", f"a2mamba_{size}"),))


def _ablation(model: str, decoder: str = "segman_v2_tiny", recipe: str = "in1k_tiny") -> Subject:
    """A backbone of Tables IX to XII, and the segmentation network that its mIoU is that of.

    The paper trains all of them on ImageNet-1K as A2Mamba-T.
    """
    segmenter, backbone = f"{decoder} on {model}", f"model.backbone={model}"
    runs = (
        Run("imagenet", recipe, model, ("--paper", f"model.name={model}")),
        Run("ade20k", f"{decoder}_ade20k", segmenter, (backbone, "model.backbone_checkpoint=FILE")),
    )
    return Subject(model, runs=runs)


def _mixer(model: str) -> Subject:
    """Table XII's networks; the mIoU of its LASS is that of SegMAN's decoder, so that one is taken for all."""
    return _ablation(model, decoder="segman_small")


def _roadmap(model: str) -> Subject:
    """Decoders of Table XIII on A2Mamba-T."""
    words = () if model == "segman_v2_tiny" else (f"model.name={model}",)
    run = Run("ade20k", "segman_v2_tiny_ade20k", model, (*words, "model.pretrained_backbone=true"))
    return Subject(model, "segmentation", runs=(run,))


_MMSCOPE = Subject(
    "segman_tiny on a2mamba_tiny",
    "segmentation",
    runs=(
        Run(
            "ade20k",
            "segman_tiny_ade20k",
            "segman_tiny on a2mamba_tiny",
            ("model.backbone=a2mamba_tiny", "model.pretrained_backbone=true"),
        ),
    ),
)
"""SegMAN's decoder for T, with the widths that it has there."""


def _tested(subject: Subject) -> Subject:
    return Subject(subject.model, runs=subject.runs, tested_sizes=(224, 512, 1024))


_OURS: dict[str, dict[str, Subject]] = {
    "I": {f"A2Mamba-{letter}": _in1k(letter, paper=True) for letter in _LETTERS},
    "II": {
        **{f"A2Mamba-{letter}": _in1k(letter, paper=True) for letter in _LETTERS},
        **{f"SegMAN-{letter} Encoder": _encoder(letter) for letter in _SEGMAN_RECIPES},
    },
    "III": {f"A2Mamba-{letter}": _in1k_384(letter) for letter in "BL"},
    "IV": {f"A2Mamba-{letter}": _detector("mask_rcnn", letter) for letter in "SBL"},
    "V": {f"A2Mamba-{letter}": _detector("cascade_mask_rcnn", letter) for letter in "SBL"},
    "VI": {f"A2Mamba-{letter}": _upernet(letter) for letter in "SBL"},
    "VII": {
        **{f"SegMAN-V2-{letter}": _segmenter("segman_v2", letter) for letter in "NSBL"},
        **{f"SegMAN-{letter}": _segmenter("segman", letter) for letter in "TSBL"},
    },
    "VIII": {
        **{f"A2Mamba-{letter}": _tested(_in1k(letter, paper=False)) for letter in _LETTERS},
        **{f"SegMAN-{letter} Encoder": _tested(_encoder(letter)) for letter in _SEGMAN_RECIPES},
    },
    "IX": {
        "LASS in all stages": _ablation("ablation_lass"),
        "attention -> AMA": _ablation("ablation_ama"),
        "SS2D -> SSM": _ablation("ablation_ama_rows"),
        "SSM -> A2SSM": _ablation("ablation_no_gate"),
        "with gate: MASS": _ablation("a2mamba_tiny"),
    },
    "X": {
        "adaptive": _ablation("a2mamba_tiny"),
        **{f"dilation {rate}": _ablation(f"ablation_dilation_{rate}") for rate in (3, 5, 7)},
        "dilations 3, 5, 7": _ablation("ablation_dilations_3_5_7"),
    },
    "XI": {
        "attention maps": _ablation("a2mamba_tiny"),
        "dilated RepConv": _ablation("ablation_rep_conv"),
        "DCNv2": _ablation("ablation_deform_conv"),
    },
    "XII": {
        "PVT": _mixer("ablation_pvt"),
        "MaxViT": _mixer("ablation_max_vit"),
        "ACmix": _mixer("ablation_acmix"),
        "BiFormer": _mixer("ablation_bi_former"),
        "LASS": _mixer("segman_encoder_small"),
        "MASS": _mixer("ablation_mass"),
    },
    "XIII": {
        "MMSCopE": _MMSCOPE,
        "progressive downsampling": _roadmap("roadmap_progressive"),
        **{f"local embedding, k = {k}": _roadmap(f"roadmap_local_{k}") for k in (3, 5, 7)},
        "MASS": _roadmap("roadmap_mass"),
        "low-level features": _roadmap("segman_v2_tiny"),
    },
}

_TIMM = {
    "PVTv2-B0": "pvt_v2_b0",
    "PVTv2-B1": "pvt_v2_b1",
    "PVTv2-B2": "pvt_v2_b2",
    "PVTv2-B3": "pvt_v2_b3",
    "PVTv2-B4": "pvt_v2_b4",
    "PVTv2-B5": "pvt_v2_b5",
    "ConvNeXt-V2-A": "convnextv2_atto",
    "ConvNeXt-V2-N": "convnextv2_nano",
    "ConvNeXt-V2-T": "convnextv2_tiny",
    "ConvNeXt-V2-B": "convnextv2_base",
    "Swin-T": "swin_tiny_patch4_window7_224",
    "Swin-S": "swin_small_patch4_window7_224",
    "Swin-B": "swin_base_patch4_window7_224",
    "ConvNeXt-T": "convnext_tiny",
    "ConvNeXt-S": "convnext_small",
    "ConvNeXt-B": "convnext_base",
    "ConvNeXt-L": "convnext_large",
    "FocalNet-T": "focalnet_tiny_lrf",
    "FocalNet-S": "focalnet_small_lrf",
    "FocalNet-B": "focalnet_base_lrf",
    "InceptionNeXt-T": "inception_next_tiny",
    "InceptionNeXt-S": "inception_next_small",
    "InceptionNeXt-B": "inception_next_base",
    "MambaOut-T": "mambaout_tiny",
    "MambaOut-S": "mambaout_small",
    "MambaOut-B": "mambaout_base",
    "RDNet-T": "rdnet_tiny",
    "RDNet-S": "rdnet_small",
    "RDNet-B": "rdnet_base",
    "CAFormer-S18": "caformer_s18",
    "CAFormer-S36": "caformer_s36",
    "CAFormer-M36": "caformer_m36",
    "CAFormer-B36": "caformer_b36",
    "MaxViT-T": "maxvit_tiny_tf_224",
    "MaxViT-S": "maxvit_small_tf_224",
    "MaxViT-B": "maxvit_base_tf_224",
}
_TIMM_384 = {
    "Swin-B": "swin_base_patch4_window12_384",
    "MaxViT-S": "maxvit_small_tf_384",
    "MaxViT-B": "maxvit_base_tf_384",
}
_SYSTEMS: dict[str, tuple[str, Task]] = {
    "IV": ("mask_rcnn", "detection"),
    "V": ("cascade_mask_rcnn", "detection"),
    "VI": ("upernet", "segmentation"),
}
"""What stands on the backbones of a table's baselines; the other systems of Table VII are not in this package."""


def subject(table: str, name: str) -> Subject | None:
    """Return what the row of this name in a table is, or None where neither this package nor timm has it.

    Args:
        table: Roman number.
        name: of the row.
    """
    if name in _OURS.get(table, {}):
        return _OURS[table][name]
    if table in ("II", "III", "VIII"):
        model = (_TIMM_384 if table == "III" else {}).get(name) or _TIMM.get(name)
        return None if model is None else Subject(model, ours=False)
    if table in _SYSTEMS and name in _TIMM:
        system, task = _SYSTEMS[table]
        return Subject(f"{system} on {_TIMM[name]}", task, ours=False)
    return None
