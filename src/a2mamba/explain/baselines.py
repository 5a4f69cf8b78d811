"""Networks of timm beside ours, on the same images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import timm
import torch
from torch import Tensor, nn

from a2mamba.engine import seeded_cpu
from a2mamba.explain.receptive_field import last_map
from a2mamba.near_names import did_you_mean


class Normalized(nn.Module):
    """A network of timm behind the normalization that it was made for, in place of another.

    Args:
        network: with timm's ``pretrained_cfg``.
        mean, std: of each channel, that the images are normalized with.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, network: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.network = network
        config: Any = network.pretrained_cfg
        own_mean, own_std = torch.tensor(config["mean"]), torch.tensor(config["std"])
        self.register_buffer("scale", (torch.tensor(std) / own_std)[:, None, None])
        self.register_buffer("shift", ((torch.tensor(mean) - own_mean) / own_std)[:, None, None])

    def forward(self, x: Tensor) -> Tensor:
        """(1, C, H, W) -> the network's last map (1, C', h, w)."""
        return last_map(self.network)(x * self.scale + self.shift)


def timm_features(
    name: str,
    size: tuple[int, int],
    *,
    mean: Sequence[float],
    std: Sequence[float],
    pretrained: bool = False,
    seed: int = 0,
) -> nn.Module:
    """Return a network of timm up to its last map, to stand beside one of ours.

    Args:
        name: in timm.
        size: height and width of the images, for networks that are made for one.
        mean, std: of each channel, that the images are normalized with.
        pretrained: take its released weights, which are downloaded once; otherwise they are random.
        seed: of random weights.

    Raises:
        ValueError: timm has no network of this name.
        OSError: the weights cannot be downloaded.
    """
    config = _config(name)
    fixed = config.fixed_input_size and tuple(config.input_size[1:]) != size
    options: dict[str, Any] = {"img_size": size} if fixed else {}
    with seeded_cpu(seed):
        network = timm.create_model(name, pretrained=pretrained, **options)
    return Normalized(network, mean, std).eval()


def check_timm_name(name: str) -> None:
    """Raise ValueError where timm has no network of a name, naming the nearest."""
    _config(name)


def _config(name: str) -> Any:
    config = timm.get_pretrained_cfg(name)
    if config is None:
        nearest = did_you_mean(name, timm.list_models(), otherwise="see timm.list_models()")
        raise ValueError(f"timm has no network {name!r}; {nearest}")
    return config
