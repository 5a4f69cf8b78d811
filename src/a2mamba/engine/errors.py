"""What can end a run early, other than a mistake in its settings (those are `ValueError`)."""

from __future__ import annotations

from collections.abc import Sequence

INTERRUPTED = 130
"""exit status after Ctrl-C: 128 + SIGINT"""
TERMINATED = 143
"""exit status after SIGTERM: 128 + SIGTERM"""
OUT_OF_TIME = 75
"""exit status after the run's time limit: EX_TEMPFAIL, "try again later" """


class ScheduleError(ValueError):
    """A checkpoint that lies on another learning-rate curve than the run that is to continue it."""


class TrainingError(RuntimeError):
    """A run that cannot go on: its losses stay non-finite, a process is lost, or the loader broke its promise.

    The message is one line. `samples` names every sample of the step that failed, where the message names a few.
    """

    exit_status = 1

    def __init__(self, message: str, *, samples: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.samples = list(samples)


class Interrupted(Exception):  # noqa: N818 - not an error: the work is saved, and the run can be resumed
    """The run was asked to stop (Ctrl-C, SIGTERM, its time limit); the step was finished and hooks have saved.

    `exit_status` says so.
    """

    def __init__(self, message: str, *, status: int = INTERRUPTED) -> None:
        super().__init__(message)
        self.exit_status = status
