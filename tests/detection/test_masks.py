"""Mask targets and pasting, against cases computed by hand and against general sampling."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.models.detection.roi_heads import paste_masks_in_image

from a2mamba.detection import iter_masks, masks, paste_masks
from a2mamba.detection.masks import mask_targets


def left_half(height: int, width: int) -> Tensor:
    mask = torch.zeros(height, width, dtype=torch.uint8)
    mask[:, : width // 2] = 1
    return mask


def test_targets_by_hand() -> None:
    """Columns 0 to 3 of 8 are filled."""
    mask = left_half(8, 8)[None]
    boxes = torch.tensor([[0.0, 0, 8, 8], [3, 0, 7, 8], [2, 2, 5, 6]])
    objects = torch.zeros(3, dtype=torch.int64)
    found = mask_targets(mask, boxes, objects, 4, aligned=True, threshold=0.5)
    assert found[0].tolist() == [[1, 1, 0, 0]] * 4
    assert found[1].tolist() == [[1, 0, 0, 0]] * 4
    # Cells 0.75 wide, sampled in their middles 2.375, 3.125, 3.875, 4.625 between pixel centers at .5
    coverage = mask_targets(mask, boxes[2:], objects[2:], 4, aligned=True, threshold=None)
    torch.testing.assert_close(coverage[0], torch.tensor([[1, 1, 0.625, 0.0]] * 4))
    assert found[2].tolist() == [[1, 1, 1, 0]] * 4
    # Without the half-pixel shift, the middle of cell [3, 4] reads half of pixel 4.
    shifted = mask_targets(mask, boxes[1:2], objects[:1], 4, aligned=False, threshold=None)
    torch.testing.assert_close(shifted[0], torch.tensor([[0.5, 0.0, 0, 0]] * 4))


def test_the_threshold_itself_counts() -> None:
    mask = left_half(4, 4)[None]
    box = torch.tensor([[1.0, 0, 3, 4]])
    options: dict[str, Any] = {"objects": torch.zeros(1, dtype=torch.int64), "size": 1, "aligned": True}
    assert mask_targets(mask, box, threshold=None, **options).item() == 0.5
    assert mask_targets(mask, box, threshold=0.5, **options).item() == 1
    assert mask_targets(mask, box, threshold=0.51, **options).item() == 0


@pytest.mark.parametrize("pixels", [1, 500, 10**9])
def test_each_box_looks_at_its_own_mask_in_groups_of_any_size(pixels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(masks, "PIXELS_AT_A_TIME", pixels)
    torch.manual_seed(0)
    images = torch.zeros(5, 12, 16, dtype=torch.bool)
    for i in range(5):
        images[i, 2 * i : 2 * i + 2] = True
    objects = torch.tensor([4, 0, 2, 2, 1, 0])
    boxes = torch.tensor([[0.0, 0, 16, 12]]).repeat(6, 1)
    found = mask_targets(images, boxes, objects, 6, aligned=True, threshold=0.5)
    expected = torch.eye(6)[objects][..., None].expand(-1, -1, 6)
    assert torch.equal(found, expected)


def test_without_boxes_there_are_no_targets() -> None:
    nothing = torch.zeros(0, dtype=torch.int64)
    for count in (0, 3):
        some = torch.zeros(count, 8, 8, dtype=torch.uint8)
        assert mask_targets(some, torch.zeros(0, 4), nothing, 28, aligned=True, threshold=0.5).shape == (0, 28, 28)


SIZE = (37, 53)
BOXES = torch.tensor(
    [[3.2, 4.7, 30.1, 20.9], [0, 0, 53, 37], [-12.5, -3, 9.3, 60], [45.1, 30.2, 45.9, 30.6], [20, 10, 48.5, 36]]
)


def probabilities(count: int = len(BOXES), cells: int = 28) -> Tensor:
    return torch.rand(count, 1, cells, cells, generator=torch.Generator().manual_seed(0))


def sampled(mask: Tensor, boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """The definition: bilinear sampling at all pixel centers of the image, zeros outside."""
    x0, y0, x1, y1 = boxes[:, :, None].unbind(1)
    y = (torch.arange(size[0]) + 0.5 - y0) / (y1 - y0) * 2 - 1
    x = (torch.arange(size[1]) + 0.5 - x0) / (x1 - x0) * 2 - 1
    grid = torch.stack((x[:, None].expand(-1, size[0], -1), y[:, :, None].expand(-1, -1, size[1])), dim=3)
    return F.grid_sample(mask, grid, align_corners=False)


def test_pasting_is_sampling_on_the_image_grid() -> None:
    mask = probabilities()
    torch.testing.assert_close(paste_masks(mask, BOXES, SIZE), sampled(mask, BOXES, SIZE), rtol=1e-5, atol=1e-5)


def test_pasting_by_hand() -> None:
    """A 2 x 2 mask in a box of 4 x 4: pixel centers lie a quarter of a cell beside the cells' centers."""
    mask = torch.tensor([[[[1.0, 0.0], [1.0, 0.0]]]])
    found = paste_masks(mask, torch.tensor([[2.0, 0, 6, 4]]), (4, 8))[0, 0]
    rows, columns = torch.tensor([0.75, 1, 1, 0.75]), torch.tensor([0, 0.25, 0.75, 0.75, 0.25, 0, 0, 0])
    torch.testing.assert_close(found, rows[:, None] * columns)


def test_pasting_as_torchvision() -> None:
    mask = probabilities()
    expected = paste_masks_in_image(mask.clone(), BOXES.clone(), SIZE)
    boxes = BOXES.clone()
    assert torch.equal(paste_masks(mask, boxes, SIZE, paste="box"), expected)
    assert torch.equal(boxes, BOXES)
    assert (expected - paste_masks(mask, BOXES, SIZE)).abs().max() > 0.01


@pytest.mark.parametrize("paste", ["grid", "box"])
def test_one_mask_at_a_time_and_as_bits(paste: Any) -> None:
    mask = probabilities()
    whole = paste_masks(mask, BOXES, SIZE, paste=paste)
    assert whole.dtype == torch.float32
    single = list(iter_masks(mask, BOXES, SIZE, paste=paste))
    assert torch.equal(torch.stack(single)[:, None], whole)
    bits = paste_masks(mask, BOXES, SIZE, threshold=0.5, paste=paste)
    assert bits.dtype == torch.bool
    assert torch.equal(bits, whole >= 0.5)


def test_boxes_without_area_or_outside_have_finite_masks() -> None:
    boxes = torch.tensor([[5.5, 5, 5.5, 9], [8.5, 8.5, 8.5, 8.5], [-30, -30, -20, -20], [60, 40, 90, 50]])
    found = paste_masks(probabilities(4), boxes, SIZE)
    assert found.isfinite().all()
    assert found[2:].sum() == 0
    assert paste_masks(probabilities(0), boxes[:0], SIZE).shape == (0, 1, *SIZE)


def test_autocast_does_not_blur_masks() -> None:
    expected = paste_masks(probabilities(), BOXES, SIZE)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(paste_masks(probabilities(), BOXES, SIZE), expected)
