"""onnxruntime-web: the three files of it that a page needs, from npm's registry once, or from a folder."""

from __future__ import annotations

import base64
import hashlib
import os
import shutil
import tarfile
import tempfile
import urllib.request
from pathlib import Path
from typing import BinaryIO

VERSION = "1.30.0"
INTEGRITY = "sha512-q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
"""Of the package, as npm's registry states it and package-lock.json writes it."""
ADDRESS = f"https://registry.npmjs.org/onnxruntime-web/-/onnxruntime-web-{VERSION}.tgz"
FILES = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
"""The form for WebAssembly alone, which every browser since 2023 runs."""

_LARGEST = 200_000_000  # bytes; the package has 33 million
_TIMEOUT = 60  # seconds without an answer


def find_runtime(given: Path | None = None) -> Path:
    """Return a folder that has `FILES`.

    Args:
        given: such a folder, the package's own folder, or the package as npm packs it (.tgz); None: the cache, into
            which the package is downloaded once, 33 MB.

    Raises:
        ValueError: what is given does not have the files, or is another package.
        OSError: the download failed; the message says how to do without.
    """
    if given is None:
        cached = _cache() / f"onnxruntime-web-{VERSION}"
        if not _complete(cached):
            _download(cached)
        return cached
    if given.is_file():
        unpacked = _cache() / f"onnxruntime-web-{VERSION}"
        with given.open("rb") as file:
            _unpack(file, unpacked, str(given))
        return unpacked
    for folder in (given, given / "dist", given / "package" / "dist", given / "node_modules/onnxruntime-web/dist"):
        if _complete(folder):
            return folder
    raise ValueError(f"{given} does not have {', '.join(FILES)}; expected a folder of onnxruntime-web, or its .tgz")


def _cache() -> Path:
    """Where the files are kept: under XDG_CACHE_HOME, or ~/.cache."""
    folder = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (folder if folder.is_absolute() else Path.home() / ".cache") / "a2mamba"


def _complete(folder: Path) -> bool:
    return all((folder / name).is_file() for name in FILES)


def _download(target: Path) -> None:
    with tempfile.TemporaryFile() as file:
        try:
            with urllib.request.urlopen(ADDRESS, timeout=_TIMEOUT) as answer:
                while block := answer.read(1 << 20):
                    file.write(block)
                    if file.tell() > _LARGEST:
                        raise ValueError(f"{ADDRESS} sends more than {_LARGEST:,} bytes; expected 33 million")
        except OSError as error:
            reason = getattr(error, "reason", error)
            raise OSError(
                f"cannot download {ADDRESS}: {reason}; download it elsewhere (npm pack onnxruntime-web@{VERSION}) and "
                f"give the .tgz file with --runtime"
            ) from error
        file.seek(0)
        _unpack(file, target, ADDRESS)


def _unpack(file: BinaryIO, target: Path, name: str) -> None:
    """Check a package, and put `FILES` of it into a folder, all or none.

    Raises:
        ValueError: it is not the package that `INTEGRITY` names.
    """
    digest = hashlib.file_digest(file, "sha512") if hasattr(hashlib, "file_digest") else hashlib.sha512(file.read())
    found = "sha512-" + base64.b64encode(digest.digest()).decode()
    if found != INTEGRITY:
        raise ValueError(f"{name} is not onnxruntime-web {VERSION}: its digest is {found}, expected {INTEGRITY}")
    file.seek(0)
    target.parent.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as work,
        tarfile.open(fileobj=file, mode="r:gz") as package,
    ):
        for each in FILES:
            content = package.extractfile(f"package/dist/{each}")
            assert content is not None, "the digest says what is inside"
            with content, (Path(work) / each).open("wb") as out:
                shutil.copyfileobj(content, out)
        target.mkdir(exist_ok=True)
        for each in FILES:
            os.replace(Path(work) / each, target / each)
