"""What hooks ask of the loop, granted by every process of a run at the same step."""

from __future__ import annotations

from collections.abc import Sequence

from a2mamba.engine.distributed import world_size
from a2mamba.engine.errors import INTERRUPTED, OUT_OF_TIME, TERMINATED

_REQUESTS = ("stop", "save", INTERRUPTED, TERMINATED, OUT_OF_TIME)


class Requests:
    """Requests of this process, and what was granted.

    stop_reason  why training ends after this step or epoch, None where it goes on
    status       the exit status, where it ends by a request from outside
    save         whether hooks are to save a checkpoint after this step
    """

    def __init__(self) -> None:
        self.stop_reason: str | None = None
        self.status: int | None = None
        self.save = False
        self._waiting: dict[str | int, str] = {}

    def ask_to_stop(self, reason: str, status: int | None) -> None:
        """Alone it is granted at once, among several processes when all have heard of it."""
        if world_size() > 1:
            self._waiting |= {"stop": reason} | ({} if status is None else {status: reason})
            return
        self.stop_reason = reason
        if self.status is None:
            self.status = status

    def ask_to_save(self, wanted: bool) -> None:
        """Granted with the next step; False withdraws it."""
        if wanted:
            self._waiting["save"] = ""
        else:
            self._waiting.pop("save", None)

    def say(self) -> list[float]:
        """Which requests this process has, as numbers to be summed over the processes."""
        return [float(request in self._waiting) for request in _REQUESTS]

    def hear(self, counts: Sequence[float]) -> None:
        """Grants the requests that any process has."""
        asked = {request for request, count in zip(_REQUESTS, counts, strict=True) if count}
        self.save = "save" in asked
        if "stop" in asked:
            self.stop_reason = self._waiting.get("stop", "another process of the run was asked to stop")
            statuses = [request for request in _REQUESTS if request in asked and isinstance(request, int)]
            self.status = statuses[0] if statuses and self.status is None else self.status
        self._waiting.clear()
