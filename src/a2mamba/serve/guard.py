"""What stands before the page's web server: who may ask, for what, and what a browser may do with the answer."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, MutableMapping
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
_FETCHES = ("/proxy=", "/file=http:", "/file=https:", "/monitoring")
"""Routes of Gradio that fetch from other servers, or tell of visitors."""


class Guard:
    """Middleware that answers requests for this server alone, none that fetch, and sets headers.

    A page elsewhere can make a visitor's browser ask 127.0.0.1 under a name of its own (DNS rebinding); such a request
    has that name as its host.

    Args:
        app: what stands behind.
        hosts: names under which the server is asked, without ports; empty: any.
    """

    def __init__(self, app: App, hosts: Iterable[str]) -> None:
        self.app = app
        self.hosts = frozenset(hosts)

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
            await _refuse(send, 403, "this server fetches nothing")
        else:

            async def with_headers(message: MutableMapping[str, Any]) -> None:
                if message["type"] == "http.response.start":
                    message["headers"] = [*message.get("headers", []), *_HEADERS]
                await send(message)

            await self.app(scope, receive, with_headers)


def _name(host: str) -> str:
    """The name in a Host header: "[::1]:80" -> "::1"."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].lower()


async def _refuse(send: Send, status: int, text: str) -> None:
    headers = [(b"content-type", b"text/plain; charset=utf-8"), *_HEADERS]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": text.encode()})
