"""Starting the page's web server, and what it may touch."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

import gradio as gr
from starlette.middleware import Middleware

from a2mamba.serve.examples import write_examples
from a2mamba.serve.guard import Guard
from a2mamba.serve.networks import Offered
from a2mamba.serve.page import build_page
from a2mamba.serve.uploads import MAX_MEGABYTES, MAX_PIXELS

LOCAL = "127.0.0.1"
_LOCAL_NAMES = (LOCAL, "localhost", "::1")
_WAITING = 64
_AROUND = 10_000  # bytes of an upload around its file
_CSS = Path(__file__).with_name("page.css")
_FONTS = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif"]
_MONO = ["ui-monospace", "SFMono-Regular", "Menlo", "monospace"]


class Server(NamedTuple):
    """A page that is up."""

    url: str
    page: gr.Blocks
    folder: Path
    """where uploads and results are until they are deleted"""


@contextmanager
def page_server(
    networks: Sequence[Offered],
    *,
    host: str = LOCAL,
    port: int | None = None,
    max_megabytes: float = MAX_MEGABYTES,
    max_pixels: int = MAX_PIXELS,
) -> Iterator[Server]:
    """Serve the page until the block is left; uploads and results are deleted then.

    Args:
        networks: what can be chosen.
        host: address to listen at; by default nobody but this machine can ask.
        port: to listen at; None: the first free one from 7860 on.
        max_megabytes: largest uploaded file, in 10^6 bytes.
        max_pixels: largest uploaded image.

    Raises:
        OSError: the port is taken.
        ValueError: a limit below one.
    """
    if max_megabytes * 1e6 < 1 or max_pixels < 1:
        raise ValueError(f"max_megabytes={max_megabytes}, max_pixels={max_pixels}: expected more than nothing")
    max_bytes = round(max_megabytes * 1e6)
    hosts = _LOCAL_NAMES if host in _LOCAL_NAMES else ()
    guard = Middleware(partial(Guard, hosts=hosts, max_upload=max_bytes + _AROUND))
    with tempfile.TemporaryDirectory(prefix="a2mamba-serve-") as name:
        folder = Path(name).resolve()
        with _environment({"GRADIO_TEMP_DIR": str(folder / "uploads"), "GRADIO_ANALYTICS_ENABLED": "False"}):
            page = build_page(networks, write_examples(folder / "examples"), max_pixels=max_pixels)
            page.queue(default_concurrency_limit=1, max_size=_WAITING, api_open=False)
            try:
                _, url, _ = page.launch(
                    server_name=host,
                    server_port=port,
                    share=False,
                    inbrowser=False,
                    prevent_thread_lock=True,
                    quiet=True,
                    show_error=False,
                    allowed_paths=[],
                    blocked_paths=_blocked(folder),
                    max_file_size=max_bytes,
                    strict_cors=True,
                    ssr_mode=False,
                    mcp_server=False,
                    enable_monitoring=False,
                    run_history=False,
                    pwa=False,
                    footer_links=["api"],
                    app_kwargs={"middleware": [guard]},
                    theme=gr.themes.Base(primary_hue="blue", neutral_hue="slate", font=_FONTS, font_mono=_MONO),
                    css_paths=_CSS,
                )
                yield Server(url, page, folder)
            finally:
                page.close(verbose=False)


def _blocked(folder: Path) -> list[str]:
    """Working folder and home, whatever Gradio would allow, but for a temporary folder inside."""
    return [str(place) for place in {Path.cwd().resolve(), Path.home().resolve()} if place not in folder.parents]


@contextmanager
def _environment(changes: Mapping[str, str]) -> Iterator[None]:
    """Set variables that Gradio has no arguments for."""
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
