"""Samples that could not be read: named in a file and on the console, counted, tolerated up to a stated share."""

from __future__ import annotations

import json
import logging
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any

from a2mamba.engine.distributed import gather_objects, is_main_process
from a2mamba.engine.fault_report import names_of
from a2mamba.engine.trainer import Hook, Trainer
from a2mamba.files import read_json, replace_text

_log = logging.getLogger(__name__)


class QuarantineHook(Hook):
    """Writes quarantine.json and ends the run where too many samples are in it.

    The file holds "samples" (of the data set), "share", "largest_share" and "quarantined" (name -> reason), and is read
    back when a run continues. In a run of several processes it is complete after every epoch, and in between holds what
    the first process met. At the end of an epoch the console names what was found in it, and the epoch's row has their
    number, so put this hook in front of the loggers.

    quarantine   name -> reason; the loader adds to it
    samples      in the data set
    largest_share of the samples that is tolerated
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
        self._known = 0  # in the file
        self._told = 0  # on the console

    def before_fit(self, trainer: Trainer) -> None:
        """Reads what an earlier part of the run found. Raises ValueError where the file is damaged."""
        if trainer.step and self.path.exists():
            try:
                found = read_json(self.path).get("quarantined")
                if not isinstance(found, dict) or not all(isinstance(reason, str) for reason in found.values()):
                    raise ValueError(f"{self.path} is damaged: quarantined does not map names to reasons")
            except ValueError as error:
                raise ValueError(f"{error}; remove it") from None
            self.quarantine.update(found)
        self._known = self._told = len(self.quarantine)

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
        if self.quarantine:
            trainer.history[-1]["undecodable_images"] = float(len(self.quarantine))
        if len(self.quarantine) > self._told and is_main_process():
            new = [f"{name} ({reason})" for name, reason in list(self.quarantine.items())[self._told :]]
            _log.warning(
                "%d of %d training images cannot be decoded and were replaced; new in this epoch: %s; all are in %s",
                len(self.quarantine),
                self.samples,
                ", ".join(names_of(new)),
                self.path,
            )
        self._told = len(self.quarantine)

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
                f"{self.largest_share:g} that is tolerated; {name}: {reason}; all are named in {self.path}"
            )
