"""What every metric offers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol


class Metric(Protocol):
    """A metric accumulates exactly, yields named numbers, and can be added up over processes.

    Each metric has its own `update`, which takes what that metric compares.
    """

    def results(self) -> Iterator[tuple[str, float]]:
        """Names and values; ValueError before the first sample."""

    def state(self) -> dict[str, Any]:
        """What was accumulated, as plain numbers and lists: fit for JSON and for sending to another process."""

    def merge(self, state: Mapping[str, Any]) -> None:
        """Add another process's `state()`; ValueError if that was measured differently."""
