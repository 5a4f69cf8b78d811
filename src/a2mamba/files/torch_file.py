"""Reading what torch.save wrote: checksums are compared, no code is run, whatever is wrong is one line."""

from __future__ import annotations

import argparse
import pickle
import re
import struct
import warnings
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from a2mamba.files import sha256_of

_DAMAGE = (
    *(ArithmeticError, AssertionError, AttributeError, EOFError, LookupError, MemoryError, OSError, RuntimeError),
    *(TypeError, ValueError, struct.error, zlib.error),
)
"""What the readers of zip and pickle raise for damaged files: they go wrong in many ways, safely."""


def _nothing(*_: object) -> None:
    """Stand in for a function that a file names: it is not called."""


class _Record:
    """Stands in for a class of a training library: its fields are kept, its code is not."""


_NUMPY = {"scalar": np.float64().__reduce__()[0], "_reconstruct": np.zeros(1).__reduce__()[0]}
_CORES = ("core", "_core")  # of NumPy 1 and 2
PLAIN_DATA: tuple[Any, ...] = (
    # timm's training checkpoints hold their command line as a Namespace.
    argparse.Namespace,
    # mmsegmentation's hold the best metric, and the log of losses, as numbers and arrays of either NumPy.
    np.ndarray,
    np.dtype,
    *(type(np.dtype(kind)) for kind in "?bhilqBHILQefd"),
    *((function, f"numpy.{core}.multiarray.{name}") for name, function in _NUMPY.items() for core in _CORES),
    (_Record, "mmengine.logging.history_buffer.HistoryBuffer"),
    (_nothing, "builtins.getattr"),
)
"""What training checkpoints hold beside tensors, for `read_torch_file`; none of it runs code."""


class TorchFile(NamedTuple):
    """The content of a file, on the CPU, and whether the checksum of every record in it was compared."""

    content: Any
    verified: bool


def read_torch_file(path: Path, *, allowed: Sequence[Any] = (), legacy: bool = True) -> TorchFile:
    """Read a file of torch.save without running code from it.

    Zip files, which torch writes since 1.6, carry a CRC-32 of each record. torch's own reader does not look at them: a
    flipped bit would be another weight.

    Args:
        path: the file.
        allowed: classes of plain data that it may hold, beside tensors, numbers, text and containers; `PLAIN_DATA` say.
        legacy: also read files from before torch 1.6, which carry no checksum.

    Raises:
        ValueError: it is missing, truncated, damaged, or holds more than plain data; one line, its path first.
    """
    if not path.is_file():
        raise ValueError(f"{path} does not exist")
    try:
        with path.open("rb") as file:
            is_zip = file.read(4) == b"PK\x03\x04"
        if is_zip:
            with zipfile.ZipFile(path) as archive:
                damaged = archive.testzip()
            if damaged is not None:
                raise ValueError(f"{path} is damaged: the checksum of {damaged!r} is wrong")
        elif not legacy:
            raise ValueError(f"{path} is damaged, or not a checkpoint")
        with warnings.catch_warnings(), torch.serialization.safe_globals([*allowed]):
            warnings.simplefilter("ignore")  # of pickle protocols, just before the error
            return TorchFile(torch.load(path, map_location="cpu", weights_only=True), is_zip)
    except zipfile.BadZipFile:
        raise ValueError(f"{path} is damaged, or not a checkpoint") from None
    except pickle.UnpicklingError as error:
        # torch's text is three lines long and recommends to run the code.
        named = re.search(r"GLOBAL ([\w.]+)", str(error))
        raise ValueError(
            f"{path} is damaged, of another pickle protocol, or holds more than plain data and is not read, as it "
            f"could run code" + (f" (it names {named[1]})" if named else "")
        ) from None
    except _DAMAGE as error:
        text = " ".join(str(error).split("\n", 1)[0].split()) or type(error).__name__
        raise ValueError(
            text if text.startswith(str(path)) else f"{path} is damaged, or not a checkpoint: {text}"
        ) from None


def check_sha256(path: Path, expected: str) -> None:
    """Compare a file with its published SHA-256, 64 hexadecimal digits. ValueError where it is another."""
    found = sha256_of(path)
    if found != expected.lower():
        raise ValueError(f"{path} has the SHA-256 {found}, expected {expected}; download it again")
