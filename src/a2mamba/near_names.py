"""Names near a wrong one, for messages."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def did_you_mean(name: str, known: Iterable[str], *, otherwise: str | None = None) -> str:
    """Return ``did you mean 'NAME'?`` with the nearest name, or ``otherwise`` where none is near.

    Args:
        name: the wrong one.
        known: the right ones.
        otherwise: None lists them all.
    """
    known = list(known)
    nearest = difflib.get_close_matches(name, known, n=1)
    if nearest:
        return f"did you mean {nearest[0]!r}?"
    return f"known: {', '.join(known)}" if otherwise is None else otherwise
