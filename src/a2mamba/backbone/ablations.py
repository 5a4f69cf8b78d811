"""The networks of the paper's ablations (Tables IX to XII): other mixers in the one block.

Each is a row of :mod:`a2mamba.backbone.a2mamba` or :mod:`a2mamba.backbone.segman` with another mixer, and where the
mixer reads it differently, another number a stage in place of the window. They are made by name, for measuring and
training, and not listed among the backbones. ``NAME_test`` is the same in the size of ``a2mamba_test``.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

from a2mamba.backbone.a2mamba import VARIANTS as A2MAMBA
from a2mamba.backbone.pyramid import Pyramid
from a2mamba.backbone.registry import register
from a2mamba.backbone.segman import VARIANTS as SEGMAN
from a2mamba.backbone.variant import Variant
from a2mamba.layers import LASS, MASS
from a2mamba.layers.acmix import ACmix
from a2mamba.layers.bi_level import BiLevelRouting
from a2mamba.layers.block_grid import BlockGrid
from a2mamba.layers.mass_parts import MASSOptions, MASSParts
from a2mamba.layers.spatial_reduction import SpatialReduction


class Ablation(Pyramid):
    """The pyramid with the mixer of an ablation."""


def _parts(**options: Any) -> partial[MASSParts]:
    return partial(MASSParts, options=MASSOptions(**options))


_FOUR_BRANCHES = (1, 3, 5, 7)

# Differences to A2Mamba-T.
_MASS: dict[str, dict[str, Any]] = {
    # Table IX: each row adds a step, and the last one, a gate, leads to A2Mamba-T.
    "ablation_lass": {"mixer": LASS},
    "ablation_ama": {"mixer": _parts(scan="four directions", gate=False)},
    "ablation_ama_rows": {"mixer": _parts(scan="rows", gate=False)},
    "ablation_no_gate": {"mixer": _parts(gate=False)},
    # Table X. With four branches every stage needs heads that four can share: the first has four instead of two.
    "ablation_dilation_3": {"mixer": _parts(dilations=(1, 3))},
    "ablation_dilation_5": {"mixer": _parts(dilations=(1, 5))},
    "ablation_dilation_7": {"mixer": _parts(dilations=(1, 7))},
    "ablation_dilations_3_5_7": {"mixer": _parts(dilations=_FOUR_BRANCHES), "heads": (4, 4, 8, 16)},
    # Table XI.
    "ablation_rep_conv": {"mixer": _parts(aggregate="rep_conv")},
    "ablation_deform_conv": {"mixer": _parts(aggregate="deform_conv")},
    # Not in the paper: what is left of MASS without its idea, and with local attention alone.
    "ablation_no_aggregation": {"mixer": _parts(aggregate="none")},
    "ablation_local": {"mixer": _parts(dilations=(1,))},
}

# Differences to SegMAN-S's encoder, Table XII.
_MIXERS: dict[str, dict[str, Any]] = {
    "ablation_pvt": {"mixer": SpatialReduction, "kernel_sizes": (8, 4, 2, 1)},
    "ablation_max_vit": {"mixer": BlockGrid, "kernel_sizes": (8, 4, 2, 1)},
    "ablation_acmix": {"mixer": ACmix, "kernel_sizes": (7, 7, 7, 7)},
    "ablation_bi_former": {"mixer": BiLevelRouting, "kernel_sizes": (1, 4, 16, 49)},
    "ablation_mass": {"mixer": MASS},
}

_TINY = replace(A2MAMBA["a2mamba_tiny"], released_mixer=None)
_SMALL = replace(SEGMAN["segman_encoder_small"], released_mixer=None)
_TEST = replace(A2MAMBA["a2mamba_test"], released_mixer=None, channels=(16, 32, 32, 48))


def _test(difference: dict[str, Any]) -> Variant:
    if "heads" in difference:
        difference = {**difference, "heads": (4, 4, 4, 4)}
    return replace(_TEST, **difference)


VARIANTS: dict[str, Variant] = {
    **{name: replace(_TINY, listed=False, **difference) for name, difference in _MASS.items()},
    **{name: replace(_SMALL, listed=False, **difference) for name, difference in _MIXERS.items()},
    **{f"{name}_test": replace(_test(difference), listed=False) for name, difference in (_MASS | _MIXERS).items()},
}

register(Ablation, VARIANTS)
