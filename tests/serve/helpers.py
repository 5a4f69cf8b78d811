"""A running page, and asking it as a browser does."""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import Any, NamedTuple

import httpx


class RefusedError(Exception):
    """What a visitor is told instead of an answer."""


class Page(NamedTuple):
    """A page that runs in a process of its own."""

    url: str
    folder: Path
    """where uploads and results are"""
    pid: int

    def upload(self, file: Path) -> dict[str, Any]:
        """Upload a file and return what stands for it in a question."""
        with file.open("rb") as content:
            answer = httpx.post(f"{self.url}gradio_api/upload", files={"files": (file.name, content)}, timeout=60)
        answer.raise_for_status()
        return {"path": answer.json()[0], "orig_name": file.name, "meta": {"_type": "gradio.FileData"}}

    def join(self, verb: str, *data: Any, session: str = "x") -> httpx.Response:
        """Put a question into the queue."""
        config = httpx.get(f"{self.url}config", timeout=60).json()
        (number,) = [each["id"] for each in config["dependencies"] if each["api_name"] == verb]
        body = {"data": list(data), "fn_index": number, "session_hash": session}
        return httpx.post(f"{self.url}gradio_api/queue/join", json=body, timeout=60)

    def ask(self, verb: str, *data: Any) -> list[Any]:
        """Return the outputs.

        Raises:
            RefusedError: with what the visitor is told.
        """
        session = uuid.uuid4().hex
        self.join(verb, *data, session=session).raise_for_status()
        address = f"{self.url}gradio_api/queue/data?session_hash={session}"
        with httpx.stream("GET", address, timeout=120) as events:
            for line in events.iter_lines():
                if line.startswith("data:"):
                    message = json.loads(line[5:])
                    if message["msg"] == "process_completed":
                        if not message["success"]:
                            raise RefusedError(str(message["output"].get("error")))
                        return list(message["output"]["data"])
        raise RuntimeError("the stream of events has ended without an answer")

    def fetch(self, file: dict[str, Any]) -> bytes:
        """Return the content of an output."""
        return httpx.get(f"{self.url}gradio_api/file={file['path']}", timeout=60).raise_for_status().content

    def memory(self) -> float:
        """Return the megabytes that the process holds."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        (line,) = [line for line in status.splitlines() if line.startswith("VmRSS")]
        return int(line.split()[1]) / 1e3
