"""Test modes: whole images or sliding windows, resized as the data sets' protocols say, several scales, flips.

What a mode does to an image of h x w, once for every scale, and again for its mirror image with ``flip``:

    resize into the box -> round both sides up to a multiple -> normalize -> network, whole or in windows -> logits
    logits -> bilinear to the size of the network's input -> bilinear to h x w -> softmax -> mean of passes -> argmax

The last line is computed in strips of rows: what is kept of a pass is its logits at the decoder's stride, or the
windows that overlap the strip, never a map of all classes at the original size.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from a2mamba.segmentation.conv import resize

STRIP_ELEMENTS = 2**23
"""Logits of all classes that one strip holds, about."""


@dataclass(frozen=True)
class TestMode:
    """How an image is given to the network, and how its logits are put together."""

    __test__ = False  # its name would make pytest look for tests in it

    mode: Literal["whole", "slide"] = "whole"
    """one pass over the whole image, or overlapping windows whose logits are averaged"""
    box: tuple[int, int] | None = None
    """(long, short) in pixels: the image is resized, in its shape, to the largest size that fits; None: not resized"""
    align: int | None = None
    """then a second resize rounds both sides up to a multiple of this; None: none"""
    crop: int = 512
    """side of the windows of "slide"; a smaller image is one window"""
    stride: int = 512
    """of the windows of "slide"; the last one of a row is moved back to the image's edge"""
    scales: tuple[float, ...] = (1.0,)
    """factors of the box, or of the image; probabilities are averaged over all"""
    flip: bool = False
    """every scale a second time with the image mirrored left to right"""
    scales_of: Literal["box", "image"] = "box"
    """what the scales multiply: the box, as in mmsegmentation 0, or the image, without any box, as in its version 1"""

    def __post_init__(self) -> None:
        if self.mode not in ("whole", "slide") or self.scales_of not in ("box", "image"):
            raise ValueError(
                f"mode={self.mode!r}, scales_of={self.scales_of!r}: expected 'whole' or 'slide', and 'box' or 'image'"
            )
        if not self.scales or min(self.scales) <= 0:
            raise ValueError(f"scales={self.scales}: expected one or more positive factors")
        if not 1 <= self.stride <= self.crop:
            raise ValueError(f"crop={self.crop}, stride={self.stride}: expected 1 <= stride <= crop, to leave no gaps")
        if (self.box is not None and min(self.box) < 1) or (self.align is not None and self.align < 1):
            raise ValueError(f"box={self.box}, align={self.align}: expected pixels, at least 1")

    def sizes(self, height: int, width: int) -> list[tuple[int, int]]:
        """Return the size of the network's input for every scale, for an image of this height and width."""
        return [self._resizes(height, width, scale)[-1] for scale in self.scales]

    def _resizes(self, height: int, width: int, scale: float) -> list[tuple[int, int]]:
        """Return the sizes that the image is resized to, one after the other."""
        box = self.box if self.scales_of == "box" else None
        if box is not None:
            long, short = max(int(max(box) * scale), 1), max(int(min(box) * scale), 1)
            scale = min(long / max(height, width), short / min(height, width))
        sizes = [(max(int(height * scale + 0.5), 1), max(int(width * scale + 0.5), 1))]
        if self.align is not None:
            sizes.append((_round_up(sizes[0][0], self.align), _round_up(sizes[0][1], self.align)))
        return sizes


SCALES = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)

TEST_MODES: dict[str, TestMode] = {
    # The image as it is.
    "image": TestMode(),
    # UperNet on ADE20K by Swin's protocol, mIoU of Table VI: single scale, then multi-scale with flips.
    "ade20k_swin": TestMode(box=(2048, 512)),
    "ade20k_swin_ms": TestMode(box=(2048, 512), scales=SCALES, flip=True),
    # SegFormer's protocol, as SegMAN and SegMAN-V2 use it (Table VII).
    "ade20k": TestMode(box=(2048, 512), align=32),
    "coco_stuff": TestMode(box=(2048, 512), align=32),
    "cityscapes": TestMode(mode="slide", box=(2048, 1024), crop=1024, stride=768),
    # SegMAN-L was tested on Cityscapes so.
    "cityscapes_whole": TestMode(box=(2048, 1024)),
}
"""Test modes by the names of data sets' protocols."""


def find_test_mode(name: str) -> TestMode:
    """Return a test mode by name; ValueError for an unknown one."""
    if name not in TEST_MODES:
        raise ValueError(f"unknown test mode {name!r}; known: {', '.join(TEST_MODES)}")
    return TEST_MODES[name]


def predict(
    model: nn.Module,
    image: Tensor,
    *,
    mode: TestMode,
    mean: Sequence[float],
    std: Sequence[float],
    device: torch.device | str | None = None,
    probabilities: bool = False,
) -> Tensor:
    """Segment one image at its original size.

    Args:
        model: a :class:`~a2mamba.segmentation.Segmenter` in eval mode, or a module with such a ``forward``: images
            (1, 3, H, W) and ``native_resolution=True`` to logits (1, classes, h, w) of any stride.
        image: uint8 (3, H, W).
        mode: how.
        mean, std: of each channel, for values in [0, 1].
        device: where the network is and the logits are put together; that of its parameters if None.
        probabilities: return the probabilities of all classes instead of the most probable one.

    Returns:
        int64 (H, W), class indices; or float32 (classes, H, W). On the CPU.

    Raises:
        ValueError: if the image has another shape or dtype, or the model is in training mode.
    """
    if image.dim() != 3 or image.shape[0] != 3 or image.dtype != torch.uint8 or image.numel() == 0:
        raise ValueError(f"expected an image uint8 (3, H, W), got {image.dtype} {tuple(image.shape)}")
    if model.training:
        raise ValueError("the model is in training mode; call model.eval() first")
    place = _device_of(model) if device is None else torch.device(device)
    size = (image.shape[1], image.shape[2])
    with torch.inference_mode():
        passes = [
            _Pass(model, network_input, mode, flipped=flipped)
            for network_input in network_inputs(image.to(place), mode, mean, std)
            for flipped in ((False, True) if mode.flip else (False,))
        ]
        strips = list(_strips(passes, size, probabilities=probabilities))
    return torch.cat(strips, dim=-2)


def _strips(passes: Sequence[_Pass], size: tuple[int, int], *, probabilities: bool) -> Iterator[Tensor]:
    """Yield the result in strips of rows, from the top, on the CPU."""
    height, width = size
    start = 0
    while start < height:
        classes = passes[0].classes
        stop = min(height, start + max(1, STRIP_ELEMENTS // (classes * width)))
        total: Tensor | None = None
        for each in passes:
            logits = _rows(each, size, start, stop)
            if len(passes) == 1 and not probabilities:
                total = logits  # the softmax keeps their order
                break
            scores = logits.softmax(dim=0)
            total = scores if total is None else total.add_(scores)
        assert total is not None
        yield (total.div_(len(passes)) if probabilities else total.argmax(dim=0)).cpu()
        start = stop


class _RowSource(Protocol):
    """A map of which some rows can be had."""

    size: tuple[int, int]

    def rows(self, start: int, stop: int) -> Tensor:
        """Return (classes, stop - start, width), float32; ``start`` never decreases from call to call."""
        ...


def _rows(source: _RowSource, size: tuple[int, int], start: int, stop: int) -> Tensor:
    """Return rows ``start`` to ``stop`` of the source resized to ``size``: bilinear, align_corners false."""
    height = source.size[0]
    position = ((torch.arange(start, stop, dtype=torch.float64) + 0.5) * (height / size[0]) - 0.5).clamp(min=0)
    above = position.floor().long().clamp(max=height - 1)
    below = (above + 1).clamp(max=height - 1)
    first, last = int(above[0]), int(below[-1])
    rows = source.rows(first, last + 1)
    rows = F.interpolate(rows[None], (rows.shape[1], size[1]), mode="bilinear", align_corners=False)[0]
    if height == size[0]:
        return rows[:, : stop - start]
    weight = (position - above).to(rows)[:, None]
    above, below = (above - first).to(rows.device), (below - first).to(rows.device)
    return torch.lerp(rows[:, above], rows[:, below], weight)


class _Logits:
    """Logits (classes, h, w) that are there."""

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits
        self.size = (logits.shape[1], logits.shape[2])

    def rows(self, start: int, stop: int) -> Tensor:
        return self.logits[:, start:stop]


class _Pass:
    """One pass of the network over one resized image: its logits at the size of its input, row by row."""

    def __init__(self, model: nn.Module, network_input: Tensor, mode: TestMode, *, flipped: bool) -> None:
        self.size = (network_input.shape[2], network_input.shape[3])
        self._flipped = flipped
        images = network_input.flip(3) if flipped else network_input
        crop = (mode.crop, mode.crop) if mode.mode == "slide" else self.size
        self._windows = _Windows(model, images, crop, mode.stride)
        self.classes = self._windows.classes

    def rows(self, start: int, stop: int) -> Tensor:
        """Return rows of the logits, mirrored back if the image was mirrored."""
        rows = self._windows.rows(start, stop)
        return rows.flip(2) if self._flipped else rows


class _Windows:
    """Average of the logits of overlapping windows, computed a row of windows at a time, as rows are asked for."""

    def __init__(self, model: nn.Module, images: Tensor, crop: tuple[int, int], stride: int) -> None:
        self.model, self.images = model, images
        self.size = (images.shape[2], images.shape[3])
        self.crop = (min(crop[0], self.size[0]), min(crop[1], self.size[1]))
        self.tops = window_starts(self.size[0], self.crop[0], stride)
        self.lefts = window_starts(self.size[1], self.crop[1], stride)
        self.done = 0
        """rows of windows that were computed"""
        self.whole: _Logits | None = None
        if len(self.tops) == len(self.lefts) == 1:
            # One window is kept at the decoder's stride, which is all that there is to know.
            self.whole = _Logits(self._logits(0, 0))
            self.classes = self.whole.logits.shape[0]
            return
        self.first = 0
        """row of the image that is the first of ``total``"""
        first_row = self._row_of_windows(0)
        self.total = first_row
        self.done = 1
        self.classes = first_row.shape[0]

    def rows(self, start: int, stop: int) -> Tensor:
        """Return (classes, stop - start, W): sums of all windows over these rows, by their number."""
        if self.whole is not None:
            return _rows(self.whole, self.size, start, stop)
        # A row of the image is complete once the next row of windows begins below it.
        while self.done < len(self.tops) and self.tops[self.done] < stop:
            self._add_windows(start)
        kept = self.total[:, start - self.first : stop - self.first]
        return kept / self._counts(start, stop).to(kept)

    def _add_windows(self, start: int) -> None:
        """Add the next row of windows, and let go of the rows above ``start``."""
        top = self.tops[self.done]
        keep = min(start, top)
        total = self.total[:, keep - self.first :]
        new = self._row_of_windows(top)
        grown = F.pad(total, (0, 0, 0, top + self.crop[0] - keep - total.shape[1]))
        grown[:, top - keep :] += new
        self.total, self.first, self.done = grown, keep, self.done + 1

    def _row_of_windows(self, top: int) -> Tensor:
        """Return (classes, crop height, W): the sum of one row of windows at the size of the image."""
        total: Tensor | None = None
        for left in self.lefts:
            logits = resize(self._logits(top, left)[None], self.crop)[0]
            if total is None:
                total = logits.new_zeros(logits.shape[0], self.crop[0], self.size[1])
            total[:, :, left : left + self.crop[1]] += logits
        assert total is not None
        return total

    def _logits(self, top: int, left: int) -> Tensor:
        """Return the network's logits of one window, (classes, h, w) float32, at the decoder's stride."""
        window = self.images[:, :, top : top + self.crop[0], left : left + self.crop[1]]
        logits: Tensor = self.model(window, native_resolution=True)
        return logits[0].float()

    def _counts(self, start: int, stop: int) -> Tensor:
        """Return (stop - start, W): how many windows cover each pixel."""

        def covered(starts: Sequence[int], crop: int, first: int, last: int) -> Tensor:
            position = torch.arange(first, last)
            return torch.stack([(position >= s) & (position < s + crop) for s in starts]).sum(0)

        rows = covered(self.tops, self.crop[0], start, stop)
        return rows[:, None] * covered(self.lefts, self.crop[1], 0, self.size[1])


def window_starts(side: int, crop: int, stride: int) -> list[int]:
    """Return where windows begin along one side: every ``stride`` pixels, the last one moved back to the edge."""
    count = math.ceil(max(side - crop, 0) / stride) + 1
    return [max(min(i * stride, side - crop), 0) for i in range(count)]


def network_inputs(image: Tensor, mode: TestMode, mean: Sequence[float], std: Sequence[float]) -> Iterator[Tensor]:
    """Yield the image at every scale, resized and normalized: float32 (1, 3, H, W)."""
    for scale in mode.scales:
        resized = image
        for size in mode._resizes(image.shape[1], image.shape[2], scale):
            resized = resize_image(resized, size)
        yield _normalize(resized, mean, std)


def resize_image(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize uint8 (3, H, W) as the training pipeline does: bilinear, without smoothing when it shrinks."""
    from torchvision.transforms.v2 import InterpolationMode
    from torchvision.transforms.v2 import functional as transforms

    return transforms.resize(image, list(size), interpolation=InterpolationMode.BILINEAR, antialias=False)


def _normalize(image: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    shift, scale = (torch.tensor(v, device=image.device, dtype=torch.float32)[:, None, None] * 255 for v in (mean, std))
    return ((image.float() - shift) / scale)[None]


def _round_up(side: int, multiple: int) -> int:
    return -(-side // multiple) * multiple


def _device_of(model: nn.Module) -> torch.device:
    parameter = next(model.parameters(), None)
    return torch.device("cpu") if parameter is None else parameter.device
