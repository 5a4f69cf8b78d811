"""What stands before the page's web server: who may ask, for what, and what a browser may do with the answer."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from functools import partial
from typing import Any
from urllib.parse import unquote

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

_POLICY = (
    "default-src 'self' 'unsafe-inline' 'unsafe-eval'; img-src 'self' data: blob:; media-src 'self' blob:; "
    "font-src 'self' data:; worker-src 'self' blob:; frame-ancestors 'none'; form-action 'self'; base-uri 'self'"
)
"""Nothing from other servers. Gradio's page has its scripts inline and compiles what its components are made of."""

_HEADERS = [
    (b"content-security-policy", _POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
]
_CLOSE = (b"connection", b"close")  # what is still on its way is not read
_FETCHES = ("/proxy=", "/file=http:", "/file=https:", "/monitoring")
"""Routes of Gradio that fetch from other servers, or tell of visitors."""
_NO_FETCHING = "this server looks at uploaded files alone and fetches nothing"
_UPLOAD = "/upload"
_MAX_BODY = 1_000_000  # bytes; a click has a few hundred


class _TooLargeError(Exception):
    """An upload that is larger than allowed."""


class Guard:
    """Middleware that answers requests for this server alone, none that fetch, and sets headers.

    A page elsewhere can make a visitor's browser ask 127.0.0.1 under a name of its own (DNS rebinding); such a request
    has that name as its host.

    Args:
        app: what stands behind.
        hosts: names under which the server is asked, without ports; empty: any.
        max_upload: bytes of the largest upload, with what surrounds the file.
    """

    def __init__(self, app: App, hosts: Iterable[str], max_upload: int) -> None:
        self.app = app
        self.hosts = frozenset(hosts)
        self.max_upload = max_upload

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or pass on."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        host = dict(scope["headers"]).get(b"host", b"").decode("latin-1")
        path = unquote(scope["path"]).lower()
        if self.hosts and _name(host) not in self.hosts:
            await _refuse(send, 421, f"this server is not {host}")
        elif any(route in path for route in _FETCHES):
            await _refuse(send, 403, _NO_FETCHING)
        elif scope["method"] == "POST" and path.endswith(_UPLOAD):
            await self._pass_on_upload(scope, receive, send)
        elif scope["method"] == "POST":
            await self._pass_on_checked(scope, receive, send)
        else:
            await self.app(scope, receive, partial(_with_headers, send))

    async def _pass_on_upload(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on an upload as far as it is allowed to go; Gradio alone would take in the whole of a larger one."""
        got = 0
        answered = False

        async def counted() -> MutableMapping[str, Any]:
            nonlocal got
            message = await receive()
            got += len(message.get("body", b""))
            if got > self.max_upload:
                raise _TooLargeError
            return message

        async def watched(message: MutableMapping[str, Any]) -> None:
            nonlocal answered
            answered = True
            if message["type"] == "http.response.start" and message["status"] >= 400:
                message["headers"] = [*message.get("headers", []), _CLOSE]
            await _with_headers(send, message)

        try:
            await self.app(scope, counted, watched)
        except Exception:
            if answered or got <= self.max_upload:
                raise
            await _refuse(send, 413, f"a file of more than {self.max_upload:,} bytes")

    async def _pass_on_checked(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on a request whose body is JSON, if it is small and no file in it is an address."""
        body = b""
        more = True
        while more:
            message = await receive()
            if message["type"] != "http.request":
                return
            body += message.get("body", b"")
            more = message.get("more_body", False)
            if len(body) > _MAX_BODY:
                await _refuse(
                    send, 413, f"a request of more than {_MAX_BODY:,} bytes; files are uploaded by themselves"
                )
                return
        try:
            content = json.loads(body) if body else None
        except (ValueError, RecursionError):
            await _refuse(send, 400, "the request is no JSON")
            return
        if _has_address(content):
            await _refuse(send, 403, _NO_FETCHING)
            return
        whole = iter([{"type": "http.request", "body": body, "more_body": False}])

        async def again() -> MutableMapping[str, Any]:
            return next(whole, None) or await receive()

        await self.app(scope, again, partial(_with_headers, send))


def _has_address(content: Any) -> bool:
    """Whether anything in a request is a file that Gradio would download."""
    waiting = [content]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            if "://" in str(value.get("path", "")):
                return True
            waiting.extend(value.values())
        elif isinstance(value, list):
            waiting.extend(value)
    return False


async def _with_headers(send: Send, message: MutableMapping[str, Any]) -> None:
    if message["type"] == "http.response.start":
        message["headers"] = [*message.get("headers", []), *_HEADERS]
    await send(message)


def _name(host: str) -> str:
    """The name in a Host header: "[::1]:80" -> "::1"."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].lower()


async def _refuse(send: Send, status: int, text: str) -> None:
    headers = [(b"content-type", b"text/plain; charset=utf-8"), _CLOSE, *_HEADERS]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": text.encode()})
