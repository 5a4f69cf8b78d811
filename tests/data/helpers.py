from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


def write_image(path: Path, *, seed: int = 0, size: tuple[int, int] = (24, 20)) -> Path:
    """An image of noise, of the given height and width; another seed is another image."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def error_line(call: Callable[[], object], *parts: str) -> str:
    """The message of the ValueError that `call` raises: one line that holds every one of `parts`."""
    with pytest.raises(ValueError, match=r"\A.*\Z") as caught:  # a dot is no line end
        call()
    message = str(caught.value)
    for part in parts:
        assert part in message, message
    return message
