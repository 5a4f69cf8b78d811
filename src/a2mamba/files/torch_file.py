"""Reading what torch.save wrote: checksums are compared, no code is run, whatever is wrong is one line."""

from __future__ import annotations

import hashlib
import pickle
import re
import struct
import warnings
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

_DAMAGE = (
    *(ArithmeticError, AssertionError, AttributeError, EOFError, LookupError, MemoryError, OSError, RuntimeError),
    *(TypeError, ValueError, struct.error, zlib.error),
)
"""What the readers of zip and pickle raise for damaged files: they go wrong in many ways, safely."""


class TorchFile(NamedTuple):
    """The content of a file, on the CPU, and whether the checksum of every record in it was compared."""

    content: Any
    verified: bool


def read_torch_file(path: Path, *, allowed: Sequence[type] = (), legacy: bool = True) -> TorchFile:
    """Read a file of torch.save without running code from it.

    Zip files, which torch writes since 1.6, carry a CRC-32 of each record. torch's own reader does not look at them: a
    flipped bit would be another weight.

    Args:
        path: the file.
        allowed: classes of plain data that it may hold, beside tensors, numbers, text and containers.
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
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    if digest.hexdigest() != expected.lower():
        raise ValueError(f"{path} has the SHA-256 {digest.hexdigest()}, expected {expected}; download it again")
