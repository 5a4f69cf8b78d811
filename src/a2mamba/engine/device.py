"""The device that a name means."""

from __future__ import annotations

import torch


def choose_device(name: str) -> str:
    """Return the device of a name: "cpu", "cuda:1", "mps", ...; "auto" is a GPU where there is one.

    Raises:
        ValueError: if it does not exist here.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return "cuda"
        return "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        torch.zeros(1, device=name).item()  # the meta device holds no values, so that nothing can be computed on it
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"device {name!r} cannot be used here ({reason}); try --device cpu") from error
    return name
