from __future__ import annotations

from pathlib import Path

import pytest

from data.detection.coco_helpers import content, write_coco


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    """Two splits of the small sound set."""
    write_coco(tmp_path / "set", "train2017", content(1))
    write_coco(tmp_path / "set", "val2017", content(101), seed=50)
    return tmp_path / "set"
