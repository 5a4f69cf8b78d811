"""Making backbones by name."""

from __future__ import annotations

import difflib

import timm
from timm.models._features import FeatureGetterNet

from a2mamba.backbone.checkpoint import load_checkpoint
from a2mamba.backbone.options import LogitsOptions, MapsOptions, ModelOptions, takes_model_options
from a2mamba.backbone.pyramid import Pyramid
from a2mamba.backbone.registry import REGISTERED


def list_models() -> list[str]:
    """Return the names of all backbones, smallest first within a family."""
    return list(REGISTERED)


@takes_model_options(LogitsOptions, MapsOptions)
def create_model(name: str, options: ModelOptions) -> Pyramid | FeatureGetterNet:
    """Make a backbone; ``timm.create_model`` gives the same object.

    Args:
        name: one of :func:`list_models`.
        options: the fields of :class:`~a2mamba.backbone.options.ModelOptions`, each as a keyword: ``num_classes=10``.

    Returns:
        (B, in_chans, S, S') -> logits (B, num_classes), for any S and S'; with ``features_only=True`` the list of maps.

    Raises:
        ValueError: for an unknown name, naming the nearest, or options out of range or that exclude each other.
        WeightsUnavailableError: if ``pretrained`` weights cannot be downloaded.
        CheckpointError: if ``checkpoint`` does not fit.
    """
    check_name(name)
    model = timm.create_model(name, pretrained=options.pretrained, **options.of_registry())
    if options.checkpoint is not None:
        load_checkpoint(model, options.checkpoint)
    assert isinstance(model, (Pyramid, FeatureGetterNet))
    return model


def check_name(name: str) -> None:
    """Raise ValueError if no backbone has this name, naming the nearest."""
    if name not in REGISTERED:
        nearest = difflib.get_close_matches(name, REGISTERED, n=1)
        hint = f"did you mean {nearest[0]!r}?" if nearest else f"known: {', '.join(REGISTERED)}"
        raise ValueError(f"unknown model {name!r}; {hint}")
