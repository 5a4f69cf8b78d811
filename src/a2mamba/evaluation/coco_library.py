"""faster-coco-eval, imported when it is used."""

from __future__ import annotations

from typing import Any

_INSTALL = 'COCO evaluation needs faster-coco-eval; install it with: pip install "a2mamba[coco]"'


def coco_library() -> Any:
    """Return faster_coco_eval; ImportError says what to install."""
    try:
        import faster_coco_eval
    except ImportError as error:
        raise ImportError(_INSTALL) from error
    return faster_coco_eval
