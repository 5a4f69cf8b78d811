"""A server on this machine that plays the hub and Google Drive, and what can go wrong with them."""

from __future__ import annotations

import re
from contextlib import AbstractContextManager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from local_server import running

QUOTA_PAGE = b"""<!DOCTYPE html><html><head><title>Google Drive - Quota exceeded</title></head><body>
<p class="uc-error-subcaption">Too many users have viewed or downloaded this file recently.</p></body></html>"""


class Server(ThreadingHTTPServer):
    """Serves one content at every address."""

    daemon_threads = True
    content = b""
    page = False
    """send Google Drive's page about its quota, as it does: with status 200"""
    breaks: int = 0
    """how many answers end in the middle"""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.ranges: list[str | None] = []
        """the range that each GET asked for"""

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self.server.ranges.append(self.headers.get("Range"))
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        if self.server.page:
            self._send(200, QUOTA_PAGE, {"Content-Type": "text/html; charset=utf-8"}, body)
            return
        content, headers, status = self.server.content, {}, 200
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
        if asked:
            status, headers["Content-Range"] = 206, f"bytes {asked[1]}-{len(content) - 1}/{len(content)}"
            content = content[int(asked[1]) :]
        headers |= {
            "Content-Type": "application/octet-stream",
            "Content-Disposition": 'attachment; filename="weights.pth"',
            "Accept-Ranges": "bytes",
            "ETag": '"0123456789abcdef0123456789abcdef01234567"',
            "X-Repo-Commit": "0" * 40,
        }
        self._send(status, content, headers, body)

    def _send(self, status: int, content: bytes, headers: dict[str, str], body: bool) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if not body:
            return
        if self.server.breaks:
            self.server.breaks -= 1
            self.wfile.write(content[: len(content) // 2])
            self.close_connection = True
            return
        self.wfile.write(content)


def serving() -> AbstractContextManager[Server]:
    """Run the server."""
    return running(Server())
