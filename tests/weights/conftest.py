"""The servers of released weights, played on this machine, and an empty cache."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import requests

from .server import Server, serving


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of weights, of a user who has downloaded nothing."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "cache" / "a2mamba" / "weights"


@pytest.fixture
def server(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """The server, to which every request of gdown's and huggingface_hub's goes."""
    send = requests.adapters.HTTPAdapter.send

    def send_there(self: Any, request: requests.PreparedRequest, **options: Any) -> requests.Response:
        assert request.url is not None
        # huggingface_hub asks through requests, too, before its version 1.
        assert request.url.startswith(("https://drive.google.com/", running.address))
        request.url = request.url.replace("https://drive.google.com", running.address)
        return send(self, request, **options)

    with serving() as running:
        monkeypatch.setattr("requests.adapters.HTTPAdapter.send", send_there)
        download = partial(huggingface_hub.hf_hub_download, endpoint=running.address)
        monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
        yield running
