"""A server on this machine that plays the part of the hub that takes and gives whole repositories."""

from __future__ import annotations

import base64
import json
import re
from contextlib import AbstractContextManager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from local_server import running

COMMIT = "0" * 40


class Hub(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.created: list[dict[str, Any]] = []
        self.downloaded: list[str] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length) if length else self._chunks()
        if self.path.endswith("/repos/create"):
            self.server.created.append(json.loads(body))
            self._json({"url": f"{self.server.address}/someone/net", "name": "someone/net"})
        elif self.path.endswith("/validate-yaml"):
            self._json({"errors": [], "warnings": []})
        elif "/preupload/" in self.path:
            files = json.loads(body)["files"]
            self._json({"files": [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in files]})
        elif "/commit/" in self.path:
            for line in body.decode().splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    self.server.files[entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
            url = f"{self.server.address}/someone/net/commit/{COMMIT}"
            self._json({"success": True, "commitUrl": url, "commitOid": COMMIT})
        else:
            self._json({}, status=404)

    def _chunks(self) -> bytes:
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        found = re.search(rf"/resolve/(?:main|{COMMIT})/(.+)$", self.path)
        if found and found[1] in self.server.files:
            content = self.server.files[found[1]]
            if self.command == "GET":
                self.server.downloaded.append(found[1])
            self._send(200, content, {"ETag": f'"{abs(hash(content)):040x}"', "X-Repo-Commit": COMMIT})
        elif "/api/models/someone/net" in self.path and "/tree/" in self.path:
            tree = [{"type": "file", "path": k, "size": len(v), "oid": "0"} for k, v in self.server.files.items()]
            self._json(tree)
        elif self.path.startswith("/api/models/someone/net"):
            siblings = [{"rfilename": name} for name in self.server.files]
            self._json({"id": "someone/net", "sha": COMMIT, "siblings": siblings, "private": False, "tags": []})
        else:
            self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"})

    def _json(self, value: Any, status: int = 200) -> None:
        self._send(status, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


def serving() -> AbstractContextManager[Hub]:
    """Run the server."""
    return running(Hub())
