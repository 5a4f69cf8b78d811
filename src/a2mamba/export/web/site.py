"""The folder of a page: our HTML, the runtime, and what the page has to know of the network."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any

from a2mamba.export.served import OutputName
from a2mamba.export.web.runtime import FILES
from a2mamba.files import replace_file, replace_text

MODEL = "model.onnx"
TASKS: dict[str, OutputName] = {"classification": "logits", "segmentation": "class_map"}
"""What a page can show, and the output that it needs of the file."""

_PAGE = ("index.html", "style.css", "page.js", "worker.js", "resize.js")
_FILTERS = ("bilinear", "bicubic")
_CHANNELS = (1, 3)


def check_page(task: str, *, channels: int, interpolation: str) -> None:
    """Check that a page can show what a network says.

    Raises:
        ValueError: it cannot.
    """
    if task not in TASKS:
        raise ValueError(f"a page for {task} cannot be made yet; expected a network for {' or '.join(TASKS)}")
    if channels not in _CHANNELS:
        raise ValueError(f"the network takes {channels} channels; a page gives it 1 (gray) or 3 (RGB)")
    if interpolation not in _FILTERS:
        raise ValueError(f"interpolation {interpolation!r}: a page resizes {' or '.join(_FILTERS)}")


def write_page(
    folder: Path,
    about: Mapping[str, Any],
    *,
    runtime: Path,
    resize: int | tuple[int, int] | None,
    interpolation: str,
    palette: Sequence[tuple[int, int, int]] = (),
) -> Path:
    """Write a page into the folder that has the network as `MODEL`; return its index.html.

    Args:
        folder: where `a2mamba.export` has written the ONNX file.
        about: the content of the file's sidecar.
        runtime: folder of onnxruntime-web's files, see `find_runtime`.
        resize: images are resized until their shorter side has so many pixels, or to this height and width, and cropped
            in the middle; None: they are resized to fit in, and padded with the mean color.
        interpolation: "bilinear" or "bicubic", with antialiasing, as Pillow does it.
        palette: a color for each class of a class map.

    Raises:
        ValueError: as `check_page`.
        OSError: a file cannot be read or written.
    """
    check_page(about["task"], channels=len(about["mean"]), interpolation=interpolation)
    ours = files("a2mamba.export.web") / "page"
    for name in _PAGE:
        replace_text(folder / name, (ours / name).read_text(encoding="utf-8"))
    for name in FILES:
        replace_file(folder / "runtime" / name, partial(shutil.copyfile, runtime / name))
    shown = {
        key: about[key] for key in ("model", "task", "bytes", "input", "outputs", "size", "mean", "std", "classes")
    }
    settings = {"resize": resize, "interpolation": interpolation, "palette": [list(each) for each in palette]}
    replace_text(folder / "page.json", json.dumps({**shown, **settings}, ensure_ascii=False))
    return folder / "index.html"
