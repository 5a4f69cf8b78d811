"""What can end a run early, other than a mistake in its settings (those are `ValueError`)."""

from __future__ import annotations

from collections.abc import Sequence


class TrainingError(RuntimeError):
    """A run that cannot go on: a loss or gradient is not finite, or the loader broke its promise.

    The message is one line. `samples` names every sample of the step that failed, where the message names a few.
    """

    def __init__(self, message: str, *, samples: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.samples = list(samples)


class Interrupted(Exception):  # noqa: N818 - not an error: the work is saved, and the run can be resumed
    """The run was asked from outside to stop (Ctrl-C, SIGTERM); the step was finished and hooks have saved."""
