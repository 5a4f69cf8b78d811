"""A server of this machine, up while a test asks it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import HTTPServer
from typing import TypeVar

from huggingface_hub import utils

ServerT = TypeVar("ServerT", bound=HTTPServer)


@contextmanager
def running(server: ServerT) -> Iterator[ServerT]:
    """Answer in a thread until the block is left."""
    # Before its version 1, huggingface_hub keeps sessions, among them those that a test made offline.
    getattr(utils, "reset_sessions", lambda: None)()
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
