"""Samples that could not be read: named in a file, counted, and borne up to a stated share."""

from __future__ import annotations

import json
from collections.abc import MutableMapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from a2mamba.engine.distributed import gather_objects, is_main_process
from a2mamba.engine.hooks import Hook
from a2mamba.files import replace_text

if TYPE_CHECKING:
    from a2mamba.engine.trainer import Trainer


class QuarantineHook(Hook):
    """Writes quarantine.json and ends the run where too many samples are in it.

    The file holds "samples" (of the data set), "share", "largest_share" and "quarantined" (name -> reason), and is read
    back when a run continues. In a run of several processes it is complete after every epoch, and in between holds what
    the first process met.

    quarantine   name -> reason; the loader adds to it
    samples      in the data set
    largest_share of the samples that the run bears
    path         of the file
    """

    def __init__(
        self, quarantine: MutableMapping[str, str], *, samples: int, largest_share: float, path: str | Path
    ) -> None:
        if not 0 <= largest_share <= 1:
            raise ValueError(f"the largest share of undecodable samples is {largest_share:g}; expected 0 to 1")
        self.quarantine = quarantine
        self.samples = samples
        self.largest_share = largest_share
        self.path = Path(path)
        self._known = 0

    def before_fit(self, trainer: Trainer) -> None:
        """Reads what an earlier part of the run found. ValueError where the file is damaged."""
        if trainer.step and self.path.exists():
            try:
                for name, reason in json.loads(self.path.read_text())["quarantined"].items():
                    self.quarantine[str(name)] = str(reason)
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise ValueError(f"{self.path} is damaged ({error}); remove it") from None
        self._known = len(self.quarantine)

    def after_step(self, trainer: Trainer) -> None:
        """Writes the file where it changed."""
        if len(self.quarantine) > self._known:
            self._report(trainer)

    def after_epoch(self, trainer: Trainer) -> None:
        """Joins what all processes met."""
        for found in gather_objects(dict(self.quarantine)):
            for name, reason in found.items():
                self.quarantine.setdefault(name, reason)
        if len(self.quarantine) > self._known:
            self._report(trainer)

    def _report(self, trainer: Trainer) -> None:
        """Raises ValueError above the largest share."""
        self._known = len(self.quarantine)
        share = self._known / self.samples
        if is_main_process():
            content: dict[str, Any] = {"samples": self.samples, "share": share, "largest_share": self.largest_share}
            content["quarantined"] = dict(sorted(self.quarantine.items()))
            replace_text(self.path, json.dumps(content, indent=2) + "\n")
        if share > self.largest_share:
            name, reason = next(iter(self.quarantine.items()))
            raise ValueError(
                f"{self._known} of {self.samples} training samples cannot be decoded, more than the share of "
                f"{self.largest_share:g} that the run bears; {name}: {reason}; all are named in {self.path}"
            )
