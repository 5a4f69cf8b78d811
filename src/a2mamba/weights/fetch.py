"""Downloading released weights: once, whole or not at all, and compared with the first download ever after."""

from __future__ import annotations

import json
import os
import sys
from functools import cache
from pathlib import Path

from a2mamba.files import read_json, replace_text, sha256_of
from a2mamba.quiet import errors_only
from a2mamba.weights.released import DriveFile, HubFile, ReleasedWeights

_TIMEOUT = 60  # seconds without a byte


class WeightsUnavailableError(OSError):
    """Released weights could not be downloaded."""


def weights_folder() -> Path:
    """Return where files of Google Drive, and the digests of all, are kept: under XDG_CACHE_HOME, or ~/.cache."""
    folder = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (folder if folder.is_absolute() else Path.home() / ".cache") / "a2mamba" / "weights"


def fetch_weights(weights: ReleasedWeights, *, hub_cache: str | Path | None = None) -> Path:
    """Return the file of released weights; it is downloaded where it is not here yet. Their license is said on stderr.

    Size and SHA-256 of the first download are kept, and compared every time after it.

    Args:
        weights: which.
        hub_cache: folder of huggingface_hub for files of the hub; None: its own.

    Raises:
        WeightsUnavailableError: no connection, or the server has something else; nothing is left under the file's name.
        ImportError: a file of Google Drive, and gdown is not installed.
        ValueError: the file is another than the one that was downloaded first.
    """
    if isinstance(weights.source, HubFile):
        path = _from_hub(weights, weights.source, hub_cache)
    else:
        path = _from_drive(weights, weights.source)
    _compare_with_first(weights, path)
    _say_license(weights)
    return path


@cache
def _say_license(weights: ReleasedWeights) -> None:
    print(
        f"weights of {weights.name} for {weights.dataset}: {weights.license}; {weights.source.address}", file=sys.stderr
    )


def _unavailable(weights: ReleasedWeights, reason: str) -> WeightsUnavailableError:
    return WeightsUnavailableError(
        f"{weights.name}: the pretrained weights for {weights.dataset} could not be downloaded ({reason}); connect to "
        f"the internet, or download {weights.source.address} elsewhere and pass its path as checkpoint=... or "
        f"--checkpoint"
    )


def _from_hub(weights: ReleasedWeights, source: HubFile, cache_dir: str | Path | None) -> Path:
    from huggingface_hub import hf_hub_download

    with errors_only("huggingface_hub"):  # its remarks on retries: what they come to is one error
        try:
            return Path(hf_hub_download(source.repository, source.path, cache_dir=cache_dir))
        except OSError as error:  # what the hub raises, requests' errors among it, is all of this kind
            raise _unavailable(weights, type(error).__name__) from error
        except Exception as error:  # newer hubs speak by httpx, whose errors are of no kind that older ones have
            if not type(error).__module__.startswith("http"):
                raise
            raise _unavailable(weights, type(error).__name__) from error


def _from_drive(weights: ReleasedWeights, source: DriveFile) -> Path:
    from filelock import FileLock  # torch and huggingface_hub have it

    path = weights_folder() / f"{weights.name}_{weights.dataset}.pth"
    path.parent.mkdir(parents=True, exist_ok=True)
    # One process downloads, the others of a run wait for it.
    with FileLock(f"{path}.lock"):
        if not path.is_file():
            incoming = path.with_name(f"{path.name}.incoming")
            _download(weights, source, incoming)
            try:
                _check_kind(weights, incoming)
                os.replace(incoming, path)
            finally:
                incoming.unlink(missing_ok=True)
    return path


def _download(weights: ReleasedWeights, source: DriveFile, path: Path) -> None:
    """Write the file, going on where an interrupted download stopped: gdown keeps its bytes beside it."""
    try:
        import gdown
    except ImportError as error:
        raise ImportError(
            f"{weights.name}: weights for {weights.dataset} are on Google Drive, which needs gdown; "
            f'install it: pip install "a2mamba[weights]"'
        ) from error
    from gdown.exceptions import DownloadError, FileURLRetrievalError

    try:
        gdown.download(
            id=source.id,
            output=str(path),
            quiet=not sys.stderr.isatty(),
            use_cookies=False,
            resume=True,
            timeout=_TIMEOUT,
        )
    except FileURLRetrievalError as error:
        raise _unavailable(
            weights, "Google Drive sent a page instead of the file; after many downloads it refuses more for a day"
        ) from error
    except DownloadError as error:
        raise _unavailable(weights, " ".join(str(error).split())) from error
    except OSError as error:  # requests' errors are of this kind; their texts are long
        raise _unavailable(weights, type(error).__name__) from error


def _check_kind(weights: ReleasedWeights, path: Path) -> None:
    """Raise WeightsUnavailableError where a file is none of weights."""
    with path.open("rb") as file:
        start = file.read(512)
    if start.startswith((b"PK\x03\x04", b"\x80")):  # a zip file, or one of before torch 1.6: a pickle
        return
    page = start.lstrip().lower().startswith((b"<!doctype", b"<html"))
    raise _unavailable(
        weights, "the server sent a page instead of the file" if page else "what came is no file of weights"
    )


def _compare_with_first(weights: ReleasedWeights, path: Path) -> None:
    """Compare a file with the record of the first download, or make that record."""
    record = weights_folder() / f"{weights.name}_{weights.dataset}.json"
    found = {"source": weights.source.address, "bytes": path.stat().st_size, "sha256": sha256_of(path)}
    if not record.is_file():
        replace_text(record, json.dumps(found, indent=2))
        return
    first = read_json(record)
    for key in ("bytes", "sha256"):
        if first.get(key) != found[key]:
            raise ValueError(
                f"{path} is not the file that was downloaded first ({key} {found[key]}, expected {first.get(key)}); "
                f"delete it and it is downloaded again, or delete {record} to accept it"
            )
