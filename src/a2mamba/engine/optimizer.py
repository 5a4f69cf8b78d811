"""Parameter groups and the optimizer. timm's factory knows the optimizers; which parameter decays is decided here."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn


@dataclass(kw_only=True)
class OptimizerConfig:
    """An optimizer by timm's name, and its numbers. None leaves a number at the optimizer's own default."""

    name: str = "adamw"
    """timm's name of the optimizer"""
    lr: float
    """peak learning rate, reached after the warm-up"""
    weight_decay: float = 0.05
    """decay of matrices and convolution kernels; vectors and scalars have none"""
    betas: tuple[float, float] | None = None
    """moment decays, for optimizers of the Adam family"""
    eps: float | None = None
    """denominator offset, for optimizers that have one"""
    momentum: float | None = None
    """for optimizers that have one, such as sgd"""
    clip_grad_norm: float | None = 5.0
    """largest global L2 norm of the gradient; none: no clipping"""


def parameter_groups(
    model: nn.Module,
    *,
    weight_decay: float,
    no_decay: Collection[str] = (),
    vectors_decay: bool = False,
    lr_scale: Mapping[str, float] | None = None,
) -> list[dict[str, Any]]:
    """Groups, decayed and not for each scale, that hold every trainable parameter of `model` exactly once.

    Parameters with no or one dimension, and those that `no_decay` names (by any of their names, where a parameter is
    shared), are not decayed; with `vectors_decay`, those that `no_decay` names and no others. `lr_scale` has, by name,
    the factor of a parameter's learning rate where it is not 1. Raises ValueError for names that the model does not
    have: a rule that names nothing is a rule that does nothing.
    """
    by_name = dict(model.named_parameters(remove_duplicate=False))
    scales = lr_scale or {}
    for rule, names in (("no_decay", set(no_decay)), ("lr_scale", scales.keys())):
        unknown = sorted(names - by_name.keys())
        if unknown:
            raise ValueError(f"{rule} names parameters that the model does not have: {', '.join(unknown)}")
    exempt = {id(by_name[name]) for name in no_decay}
    scale_of = {id(by_name[name]): scale for name, scale in scales.items()}
    groups: dict[tuple[float, bool], dict[str, Any]] = {}
    for parameter in model.parameters():
        if parameter.requires_grad:
            spared = id(parameter) in exempt or (parameter.ndim <= 1 and not vectors_decay)
            scale = scale_of.get(id(parameter), 1.0)
            name = ("no_decay" if spared else "decay") + ("" if scale == 1 else f"_lr_x{scale:g}")
            group = {"params": [], "weight_decay": 0.0 if spared else weight_decay, "name": name}
            groups.setdefault((scale, spared), group | ({} if scale == 1 else {"lr_scale": scale}))
            groups[scale, spared]["params"].append(parameter)
    held = sorted(id(parameter) for group in groups.values() for parameter in group["params"])
    trainable = sorted({id(parameter) for parameter in by_name.values() if parameter.requires_grad})
    assert held == trainable, "every trainable parameter belongs to exactly one group"
    return [groups[key] for key in sorted(groups)]


def build_optimizer(
    model: nn.Module,
    config: OptimizerConfig,
    *,
    no_decay: Collection[str] = (),
    vectors_decay: bool = False,
    lr_scale: Mapping[str, float] | None = None,
) -> torch.optim.Optimizer:
    """The optimizer over `parameter_groups(model)`.

    Raises ValueError for a name that timm does not know, and for a number that this optimizer does not have.
    """
    # timm's import takes longer than torch's, and importing the engine shall cost neither commands nor tests that.
    from timm.optim import create_optimizer_v2, get_optimizer_info

    info = get_optimizer_info(config.name.lower())
    given = {"betas": config.betas, "eps": config.eps, "momentum": config.momentum}
    numbers: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    accepted = {"betas": info.has_betas and info.num_betas == 2, "eps": info.has_eps, "momentum": info.has_momentum}
    for key in numbers:
        if not accepted[key]:
            raise ValueError(f"optimizer {config.name!r} has no {key}; leave optimizer.{key} at none")
    if _can_fuse(info.opt_class, model):
        numbers["fused"] = True
    groups = parameter_groups(
        model, weight_decay=config.weight_decay, no_decay=no_decay, vectors_decay=vectors_decay, lr_scale=lr_scale
    )
    if not groups:
        raise ValueError("the model has no trainable parameter")
    return create_optimizer_v2(
        groups, opt=config.name.lower(), lr=config.lr, weight_decay=config.weight_decay, **numbers
    )


def _can_fuse(optimizer: type[torch.optim.Optimizer] | str, model: nn.Module) -> bool:
    """Whether one pass over every parameter is to be had where the plain form of an optimizer makes ten.

    Some of torch's own have it. ``optimizer`` is a name where another package has the class.
    """
    if isinstance(optimizer, str) or "fused" not in inspect.signature(optimizer).parameters:
        return False
    return {parameter.device.type for parameter in model.parameters()} <= {"cpu", "cuda"}
