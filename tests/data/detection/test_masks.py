from __future__ import annotations

import pickle
import sys
from typing import Any

import numpy as np
import pytest

from a2mamba.data.detection.masks import NoPolygonError, SegmentationStore

library = pytest.importorskip("faster_coco_eval.core.mask")


def blobs(seed: int) -> np.ndarray:
    """A mask of any shape: noise, stripes, all, nothing, or a few rectangles."""
    draw = np.random.default_rng(seed)
    height, width = draw.integers(1, 70, 2)
    kind = seed % 5
    if kind == 0:
        return (draw.random((height, width)) < 0.5).astype(np.uint8)
    if kind == 1:
        return np.full((height, width), seed // 5 % 2, dtype=np.uint8)
    mask = np.zeros((height, width), dtype=np.uint8)
    for _ in range(kind):
        top, left = draw.integers(0, height), draw.integers(0, width)
        mask[top : top + draw.integers(1, 40), left : left + draw.integers(1, 40)] = 1
    return mask


@pytest.mark.parametrize("seed", range(40))
def test_both_forms_of_run_lengths_are_drawn_as_the_library_does(seed: int) -> None:
    mask = blobs(seed)
    height, width = mask.shape
    encoded = library.encode(np.asfortranarray(mask))
    pixels = np.concatenate(([0], mask.ravel(order="F"))).astype(int)
    edges = np.flatnonzero(np.diff(pixels)).tolist()
    listed = np.diff([0, *edges, mask.size]).tolist()
    store = SegmentationStore()
    text = encoded["counts"].decode()
    store.append({"size": [height, width], "counts": text}, height=height, width=width)
    store.append({"size": [height, width], "counts": listed}, height=height, width=width)
    assert len(store) == 2
    for index in range(2):
        drawn = store.draw(index)
        assert drawn.dtype == np.uint8
        assert np.array_equal(drawn, mask)
        extent = store.extent(index)
        if mask.any():
            x, y, w, h = library.toBbox(encoded).tolist()
            assert extent == (x, y, x + w, y + h)
        else:
            assert extent is None


def test_polygons_are_drawn_as_the_library_does() -> None:
    draw = np.random.default_rng(0)
    store = SegmentationStore()
    expected = []
    for _ in range(20):
        rings = [draw.uniform(-5, 65, 2 * int(draw.integers(3, 9))).round(2).tolist() for _ in range(3)]
        bad: list[list[float]] = [[1, 2, 3, 4], [1, 2, 3, 4, 5, 6, 7], [1, 2, 3, 4, 5, float("nan")]]
        assert store.append([*rings, *bad], height=50, width=60) == 3
        expected.append(library.decode(library.merge(library.frPyObjects(rings, 50, 60))))
    assert len(store) == 20
    for index in (19, 0, 7, 3, *range(20)):
        assert np.array_equal(store.draw(index), expected[index])
    copied = pickle.loads(pickle.dumps(store))
    assert np.array_equal(copied.draw(7), expected[7])


def test_extent_of_polygons_ends_at_the_image() -> None:
    store = SegmentationStore()
    store.append([[-5, 2, 30, 2, 30, 90], [1, 1, 2, 2, 3, 1]], height=50, width=60)
    assert store.extent(0) == (0, 1, 30, 50)


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        (7, "neither"),
        ("abc", "neither"),
        ([7], "no list of polygons"),
        ([[1, 2, 3, 4, 5, "6"]], "than numbers"),
        ({"size": [4, 6], "counts": [24]}, "size"),
        ({"counts": [20]}, "size"),
        ({"size": [4, 5]}, "neither a string"),
        ({"size": [4, 5], "counts": [10, 9]}, "do not add up"),
        ({"size": [4, 5], "counts": [30, -10]}, "neither a string"),
        ({"size": [4, 5], "counts": [10.0, 10.0]}, "neither a string"),
        ({"size": [4, 5], "counts": "\u00e9"}, "no valid COCO string"),
    ],
)
def test_bad_segmentations(segmentation: Any, message: str) -> None:
    store = SegmentationStore()
    with pytest.raises(ValueError, match=message):
        store.append(segmentation, height=4, width=5)
    assert len(store) == 0
    store.append([[0, 0, 4, 0, 4, 4, 0, 4]], height=4, width=5)
    assert store.draw(0).sum() == 16, "what was refused left nothing behind"


@pytest.mark.parametrize(
    "ring",
    [
        [1, 2, 3, 4],
        [1, 2, 3, 4, 5],
        [1, 2, 3, 4, 5, float("nan")],
        [float("nan"), 2, 3, 4, 5, 6],
        [1, 2, 3, 4, 5, 1e12],
        [1, 2, 3, 4, 5, -1e12],
    ],
)
def test_polygons_that_are_none(ring: list[float]) -> None:
    store = SegmentationStore()
    with pytest.raises(NoPolygonError, match="three points or more with finite coordinates"):
        store.append([ring], height=4, width=5)
    assert len(store) == 0
    good = [0, 0, 4, 0, 4, 4, 0, 4]
    assert store.append([ring, good], height=4, width=5) == 1
    assert store.draw(0).sum() == 16, "the good one is drawn"


@pytest.mark.parametrize("counts", ["", "0", "54", "zzzz", "PPYo0", "o", "~~", "  ", "oooooooooooooooo0", "5N5N5"])
def test_damaged_strings(counts: str) -> None:
    store = SegmentationStore()
    store.append({"size": [4, 5], "counts": counts}, height=4, width=5)
    with pytest.raises(ValueError, match=r"run lengths") as caught:
        store.draw(0)
    assert "\n" not in str(caught.value)


def test_masks_need_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("faster_coco_eval", "faster_coco_eval.core"):
        monkeypatch.setitem(sys.modules, name, None)
    store = SegmentationStore()
    store.require_library()
    store.append({"size": [2, 2], "counts": [1, 3]}, height=2, width=2)
    for call in (store.require_library, lambda: store.draw(0)):
        with pytest.raises(ImportError, match=r"a2mamba\[coco\]"):
            call()
