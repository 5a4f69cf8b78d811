"""Downloading released weights from servers that work, break off, refuse, send something else, or are not there."""

from __future__ import annotations

import hashlib
import io
import json
import sys
from contextlib import suppress
from pathlib import Path

import huggingface_hub
import pytest
import torch

from a2mamba.weights import ReleasedWeights, WeightsUnavailableError, fetch_weights, find_weights
from a2mamba.weights import fetch as fetch_module

from .server import Server

DRIVE = find_weights("segman_tiny", "cityscapes")
HUB = find_weights("a2mamba_nano")
BOTH = pytest.mark.parametrize("weights", [DRIVE, HUB], ids=["drive", "hub"])


def torch_file(value: float) -> bytes:
    stream = io.BytesIO()
    torch.save({"state_dict": {"weight": torch.full((500_000,), value)}}, stream)
    return stream.getvalue()


def files(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.iterdir() if path.suffix != ".lock") if cache.exists() else []


@BOTH
def test_a_file_is_downloaded_once(
    weights: ReleasedWeights, server: Server, cache: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    fetch_module._say_license.cache_clear()
    server.content = torch_file(1)
    path = fetch_weights(weights)
    assert path.read_bytes() == server.content
    asked = len(server.ranges)
    assert fetch_weights(weights) == path
    assert len(server.ranges) == asked == 1
    record = json.loads((cache / f"{weights.name}_{weights.dataset}.json").read_text())
    digest = hashlib.sha256(server.content).hexdigest()
    assert record == {"source": weights.source.address, "bytes": len(server.content), "sha256": digest}
    said = f"weights of {weights.name} for {weights.dataset}: {weights.license}; {weights.source.address}\n"
    assert capfd.readouterr().err.count(said) == 1


def test_an_interrupted_download_goes_on_where_it_stopped(server: Server, cache: Path) -> None:
    server.content, server.breaks = torch_file(2), 1
    with pytest.raises(WeightsUnavailableError, match="Download is incomplete"):
        fetch_weights(DRIVE)
    assert not any(name.endswith((".pth", ".json", ".incoming")) for name in files(cache))
    assert fetch_weights(DRIVE).read_bytes() == server.content
    begun = int(str(server.ranges[-1]).removeprefix("bytes=").removesuffix("-"))
    assert 0 < begun <= len(server.content) // 2, "whole chunks are kept"
    assert files(cache) == ["segman_tiny_cityscapes.json", "segman_tiny_cityscapes.pth"]


def test_an_interrupted_download_of_the_hub_goes_on(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 2**18)
    server.content, server.breaks = torch_file(2), 1
    if hasattr(huggingface_hub.utils, "reset_sessions"):  # those before version 1 may go on at the next call alone
        with suppress(WeightsUnavailableError):
            fetch_weights(HUB)
    assert fetch_weights(HUB).read_bytes() == server.content
    assert [begun is None for begun in server.ranges] == [True, False]


def test_a_page_instead_of_the_file(server: Server, cache: Path) -> None:
    server.page = True
    with pytest.raises(WeightsUnavailableError, match=r"sent a page instead of the file.* refuses .*uc\?id=1Giv"):
        fetch_weights(DRIVE)
    assert files(cache) == []


@pytest.mark.parametrize(("content", "what"), [(b"<!doctype HTML><p>no", "a page"), (b"GIF89a", "no file of weights")])
def test_what_is_no_file_of_weights(content: bytes, what: str, server: Server, cache: Path) -> None:
    server.content = content
    with pytest.raises(WeightsUnavailableError, match=what):
        fetch_weights(DRIVE)
    assert files(cache) == []


@BOTH
def test_another_file_than_the_first_is_refused(weights: ReleasedWeights, server: Server, cache: Path) -> None:
    server.content = torch_file(1)
    path = fetch_weights(weights)
    for changed, key in ((torch_file(2), "sha256"), (server.content[:-1], "bytes")):
        path.write_bytes(changed)
        with pytest.raises(ValueError, match=rf"is not the file that was downloaded first \({key}.*delete it"):
            fetch_weights(weights)
    path.unlink()
    if weights is DRIVE:
        assert fetch_weights(weights).read_bytes() == server.content
        path.unlink()
        server.content = torch_file(2)
        with pytest.raises(ValueError, match="is not the file that was downloaded first"):
            fetch_weights(weights)


@BOTH
def test_offline(weights: ReleasedWeights, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody(*_: object, **__: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr("socket.getaddrinfo", nobody)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(WeightsUnavailableError) as caught:
        fetch_weights(weights)
    message = str(caught.value)
    assert "\n" not in message
    assert f"download {weights.source.address} elsewhere and pass its path as checkpoint=" in message
    assert files(cache) == []


def test_without_gdown(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gdown", None)
    with pytest.raises(ImportError, match=r'needs gdown; install it: pip install "a2mamba\[weights\]"'):
        fetch_weights(DRIVE)
