from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from a2mamba.data.detection.transforms import MultiScale, crop, flip, original_view, resize, resized_size

MS: dict[str, Any] = {
    "min_sizes": (48, 64, 80),
    "max_size": 133,
    "hflip": 0.5,
    "crop_probability": 0.5,
    "crop_resize_sizes": (40, 50, 60),
    "crop_size": (38, 60),
}


def pattern(height: int, width: int) -> Tensor:
    """Red grows to the right, green downwards; blue is noise."""
    red = torch.arange(width).expand(height, width)
    green = torch.arange(height)[:, None].expand(height, width)
    return torch.stack((red, green, torch.randint(256, (height, width)))).to(torch.uint8)


def boxes(*values: tuple[float, float, float, float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float32).reshape(-1, 4)


@pytest.mark.parametrize(
    ("size", "short", "expected"),
    [
        ((480, 640), 800, (800, 1067)),  # 1066.67 is rounded
        ((640, 426), 800, (1202, 800)),  # 1201.88
        ((375, 1242), 800, (402, 1333)),  # the long side binds: 402.47
        ((333, 1000), 800, (444, 1333)),  # 443.89
        ((480, 640), 480, (480, 640)),
        ((1, 1000), 800, (1, 1333)),
    ],
)
def test_size_rule(size: tuple[int, int], short: int, expected: tuple[int, int]) -> None:
    assert resized_size(*size, short=short, long=1333) == expected


def test_half_is_rounded_up() -> None:
    assert resized_size(20, 25, short=10, long=1333) == (10, 13)  # 12.5


def test_resize_scales_each_axis_by_its_rounded_size() -> None:
    view = resize(original_view(pattern(37, 53), boxes((0, 0, 53, 37), (10, 5, 20, 30))), short=48, long=133)
    assert tuple(view.image.shape) == (3, 48, 69)
    torch.testing.assert_close(
        view.boxes, boxes((0, 0, 69, 48), (10 * 69 / 53, 5 * 48 / 37, 20 * 69 / 53, 30 * 48 / 37))
    )
    assert view.image.dtype == torch.uint8


def test_resize_is_bilinear_without_antialiasing() -> None:
    image = pattern(40, 60)
    view = resize(original_view(image, boxes()), short=25, long=1000)
    expected = functional.interpolate(image[None].float(), size=(25, 38), mode="bilinear", align_corners=False)[0]
    # torch's kernel for bytes rounds after each of its two passes.
    assert (view.image.float() - expected).abs().max() <= 1.01


def test_flip_mirrors_boxes_and_pixels() -> None:
    image = pattern(8, 10)
    view = flip(original_view(image, boxes((1, 2, 4, 7))))
    assert view.boxes.tolist() == [[6, 2, 9, 7]]
    assert torch.equal(view.image[:, 2:7, 6:9], image[:, 2:7, 1:4].flip(-1))
    twice = flip(view)
    assert torch.equal(twice.image, image)
    assert twice.boxes.tolist() == [[1, 2, 4, 7]]
    assert torch.equal(twice.columns, torch.arange(10))


def test_crop_shifts_clips_and_removes() -> None:
    view = original_view(
        pattern(50, 60),
        boxes(
            (0, 0, 60, 50),  # larger than the crop
            (10, 5, 30, 25),  # equal to it
            (0, 0, 10, 50),  # ends where it begins
            (29, 24, 60, 50),  # one pixel inside
            (12, 8, 14, 9),  # inside
            (30, 5, 40, 25),  # to the right
            (15, 0, 20, 5),  # above
        ),
    )
    part = crop(view, top=5, left=10, height=20, width=20)
    assert part.kept.tolist() == [0, 1, 3, 4]
    assert part.boxes.tolist() == [[0, 0, 20, 20], [0, 0, 20, 20], [19, 19, 20, 20], [2, 3, 4, 4]]
    assert torch.equal(part.image, view.image[:, 5:25, 10:30])
    again = crop(part, top=10, left=0, height=10, width=10)
    assert again.kept.tolist() == [0, 1], "positions are those in the original image"


def test_crop_without_objects_is_allowed() -> None:
    part = crop(original_view(pattern(50, 60), boxes((0, 0, 5, 5))), top=20, left=20, height=10, width=10)
    assert part.boxes.shape == (0, 4)
    assert part.kept.shape == (0,)


def test_chosen_rows_and_columns_are_what_masks_become() -> None:
    """The selection equals flipping, resizing (nearest), cropping and resizing the bitmap itself."""
    torch.manual_seed(0)
    for _ in range(30):
        height, width = (int(torch.randint(20, 90, ())) for _ in range(2))
        mask = torch.randint(2, (height, width)).float()
        view = flip(original_view(pattern(height, width), boxes()))
        view = resize(view, short=50, long=100)
        bitmap = functional.interpolate(mask.flip(-1)[None, None], size=tuple(view.image.shape[1:]), mode="nearest")
        top, left = (int(torch.randint(side // 2, ())) for side in view.image.shape[1:])
        view = crop(view, top=top, left=left, height=20, width=25)
        bitmap = bitmap[..., top : top + 20, left : left + 25]
        view = resize(view, short=64, long=200)
        bitmap = functional.interpolate(bitmap, size=tuple(view.image.shape[1:]), mode="nearest")[0, 0]
        assert torch.equal(mask[view.rows][:, view.columns], bitmap)


def test_both_policies_with_all_their_sizes() -> None:
    torch.manual_seed(0)
    transform = MultiScale(**MS)
    image, whole = pattern(75, 100), boxes((0, 0, 100, 75))
    shorts, crops, flips = [], [], 0
    for _ in range(400):
        view = transform(image, whole)
        height, width = view.image.shape[1:]
        assert max(height, width) <= 133
        shorts.append(min(height, width))
        flips += bool(view.columns[0] > view.columns[-1])
        seen = (len(view.rows.unique()), len(view.columns.unique()))
        covered = int(view.rows.max() - view.rows.min()) + 1, int(view.columns.max() - view.columns.min()) + 1
        if covered[0] < 70 or covered[1] < 94:  # what a resize alone leaves out at the edges is less
            crops.append(seen)
    assert {48, 64, 80} <= set(shorts)
    # The long side binds only for crops that are far from square; all other short sides are drawn.
    assert sum(short in (48, 64, 80) for short in shorts) > 380
    assert 150 < flips < 250
    # Crops of full height and width look like no crops: a few of half of 400.
    assert 130 < len(crops) < 220


def test_crop_sizes_are_drawn_from_their_range(monkeypatch: pytest.MonkeyPatch) -> None:
    from a2mamba.data.detection import transforms

    seen: list[tuple[int, int, int, int]] = []

    def spy(view: Any, *, top: int, left: int, height: int, width: int) -> Any:
        assert top + height <= view.image.shape[1]
        assert left + width <= view.image.shape[2]
        assert view.image.shape[1] == 50
        seen.append((height, width, top, left))
        return crop(view, top=top, left=left, height=height, width=width)

    monkeypatch.setattr(transforms, "crop", spy)
    torch.manual_seed(0)
    transform = MultiScale(**{**MS, "crop_probability": 1.0, "crop_resize_sizes": (50,)})
    for _ in range(400):
        transform(pattern(75, 100), boxes())
    heights, widths, tops, lefts = (set(values) for values in zip(*seen, strict=True))
    assert heights == set(range(38, 51)), "the image's height is less than the largest crop"
    assert widths == set(range(38, 61))
    assert {0, 12} <= tops
    assert {0} <= lefts
    assert max(lefts) > 20


def test_a_image_smaller_than_the_crop_stays_whole() -> None:
    transform = MultiScale(**{**MS, "crop_probability": 1.0, "crop_resize_sizes": (20,), "hflip": 0.0})
    view = transform(pattern(20, 20), boxes((0, 0, 20, 20)))
    assert view.boxes.shape == (1, 4)
    assert view.boxes[0].tolist() == [0, 0, view.image.shape[2], view.image.shape[1]]
    assert (view.rows[0], view.rows[-1]) == (0, 19)


def test_probabilities_of_zero_and_one() -> None:
    image = pattern(48, 64)
    still = MultiScale(**{**MS, "hflip": 0.0, "crop_probability": 0.0, "min_sizes": (48,)})(image, boxes((1, 2, 3, 4)))
    assert torch.equal(still.image, image)
    assert still.boxes.tolist() == [[1, 2, 3, 4]]
    mirrored = MultiScale(**{**MS, "hflip": 1.0, "crop_probability": 0.0, "min_sizes": (48,)})(image, boxes())
    assert torch.equal(mirrored.image, image.flip(-1))
