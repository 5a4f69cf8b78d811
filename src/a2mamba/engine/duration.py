"""Times in words."""

from __future__ import annotations

import math


def duration(seconds: float) -> str:
    """A time for people: 5 s, 12 min, 3.4 h, 2.1 days."""
    if seconds < 90:
        return f"{math.ceil(seconds)} s"
    if seconds < 5400:
        return f"{round(seconds / 60)} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.1f} days"
