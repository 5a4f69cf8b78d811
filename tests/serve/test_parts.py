"""The parts of the page without a server: networks, uploads, entries, explanations, the guard."""

from __future__ import annotations

import asyncio
import json
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from a2mamba.serve import uploads
from a2mamba.serve.answers import MAX_BARS, TASK_PAGES, bars
from a2mamba.serve.explanation import SIDE, explain_point, point_in_view, show_view
from a2mamba.serve.guard import Guard, Scope, Send
from a2mamba.serve.networks import Offered, load_networks
from a2mamba.serve.uploads import read_upload
from a2mamba.tasks import TASKS, DetectionPrediction, SourceImage
from cli.helpers import in_process


def test_networks_and_their_labels(networks: list[Offered], words: list[str], checkpoint: Path) -> None:
    labels = [offered.label for offered in networks]
    assert labels == ["a2mamba_test", "a2mamba_test (other.pth)", "segman_v2_test", "mask_rcnn_a2mamba_test"]
    again = load_networks([words[0]] * 4, device="cpu", say=lambda line: None)
    assert len({offered.label for offered in again}) == 4
    with pytest.raises(ValueError, match="no network to serve"):
        load_networks([])
    with pytest.raises(ValueError, match="unknown model 'nonsense'"):
        load_networks([f"nonsense={checkpoint}"])


def test_the_command_takes_the_data_set_of_released_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def load(path: str, *, name: str | None, pretrained: str | None, device: str) -> None:
        asked.append((path, name, pretrained))
        raise ValueError("nothing is loaded here")

    monkeypatch.setattr("a2mamba.serve.networks.load", load)
    in_process("serve", "segman_small", "--pretrained", "cityscapes").refused("nothing is loaded here")
    in_process("serve", "segman_small", "cityscapes").refused("nothing is loaded here")
    assert asked == [("segman_small", None, "cityscapes"), ("segman_small", None, None)]


class _Evil:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, tuple[Path]]:
        return Path.touch, (self.mark,)


def test_a_pickle_as_checkpoint_is_refused(tmp_path: Path) -> None:
    torch.save({"state_dict": _Evil(tmp_path / "run")}, tmp_path / "evil.pth")
    with pytest.raises(ValueError, match=r"evil\.pth"):
        load_networks([f"a2mamba_test={tmp_path / 'evil.pth'}"])
    assert not (tmp_path / "run").exists()


def test_every_task_has_a_tab() -> None:
    assert list(TASK_PAGES) == list(TASKS)


def test_uploads_of_every_kind(networks: list[Offered], tmp_path: Path) -> None:
    predictor = networks[0].predictor
    ramp = np.linspace(0, 255, 60 * 40).reshape(40, 60)
    gray = Image.fromarray(ramp.astype(np.uint8))
    files = {
        "gray.png": gray,
        "deep.png": Image.fromarray((ramp * 257).astype(np.uint16)),
        "cmyk.jpg": gray.convert("CMYK"),
        "alpha.png": gray.convert("RGBA"),
        "palette.gif": gray.convert("P"),
    }
    for name, image in files.items():
        image.save(tmp_path / name)
    gray.save(tmp_path / "moving.gif", save_all=True, append_images=[gray.rotate(180)])
    turned = Image.Exif()
    turned[0x0112] = 6
    gray.save(tmp_path / "turned.jpg", exif=turned)
    for name in [*files, "moving.gif", "turned.jpg"]:
        found = read_upload({"path": str(tmp_path / name)}, predictor, max_pixels=10_000)
        assert found.mode == "RGB"
        assert found.size == ((40, 60) if name == "turned.jpg" else (60, 40)), name
        assert np.asarray(found).std() > 30, name


def test_large_images_are_shrunk(networks: list[Offered], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "LOOKED_AT", 50)
    Image.new("RGB", (200, 100)).save(tmp_path / "x.png")
    assert read_upload({"path": str(tmp_path / "x.png")}, networks[0].predictor, max_pixels=20_000).size == (50, 25)


def test_what_is_refused_of_uploads(networks: list[Offered], tmp_path: Path, checkpoint: Path) -> None:
    predictor = networks[0].predictor
    (tmp_path / "x.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>")
    (tmp_path / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))
    Image.new("1", (9_000, 9_000)).save(tmp_path / "large.png")
    for name, said in {
        "x.svg": "an SVG file",
        "bad.png": "cannot decode holiday",
        "large.png": "9000 x 9000 pixels; at most 50,000,000",
        "absent.png": "cannot decode holiday: No such file",
    }.items():
        with pytest.raises(ValueError, match=said) as error:
            read_upload({"path": str(tmp_path / name), "orig_name": "holiday"}, predictor, max_pixels=50_000_000)
        assert str(tmp_path) not in str(error.value)
    with pytest.raises(ValueError, match="not an image in a known format"):
        read_upload({"path": str(checkpoint)}, predictor, max_pixels=10_000)


def test_names_in_bars_are_text(networks: list[Offered]) -> None:
    detector = networks[3].predictor
    count = MAX_BARS + 3
    prediction = DetectionPrediction(
        source=SourceImage("x", 0, lambda: Image.new("RGB", (8, 8))),
        classes=["<img src=x onerror=alert(1)>"],
        boxes=torch.tensor([[0.0, 0.0, 4.0, 4.0]] * count),
        labels=torch.ones(count, dtype=torch.int64),
        scores=torch.linspace(1, 0.5, count),
        mask_cells=None,
        size=(8, 8),
        paste="grid",
    )
    text = bars(prediction, detector)
    assert "<img" not in text
    assert text.count("&lt;img src=x") == text.count("<li>") == MAX_BARS
    assert "and 3 more" in text
    assert "width:100.0%" in text
    nothing = DetectionPrediction(
        prediction.source,
        prediction.classes,
        torch.zeros(0, 4),
        torch.zeros(0).long(),
        torch.zeros(0),
        None,
        (8, 8),
        "grid",
    )
    assert "No object was found" in bars(nothing, detector)


@pytest.mark.parametrize("number", [0, 2, 3], ids=["classifier", "segmenter", "detector"])
def test_a_point_is_explained(networks: list[Offered], number: int) -> None:
    predictor = networks[number].predictor
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8))
    shown = show_view(predictor, image)
    assert max(shown.size) == SIDE
    view = predictor.view(image).image
    point = point_in_view(predictor, image, (shown.width - 1, shown.height - 1))
    for place, side, shown_side in zip(point, view.size, shown.size, strict=True):
        assert 0 <= side - 1 - place <= side / shown_side
    assert point_in_view(predictor, image, (0, 0)) == (0, 0)
    marked, maps = explain_point(predictor, image, point)
    assert marked.size == shown.size
    assert [name for _, name in maps] == [
        *(f"stage {stage}, {branch}" for stage in (1, 2, 3) for branch in ("sliding", "dilated")),
        *(f"stage 4, {branch}" for branch in ("sliding", "dilated", "global")),
    ]
    assert all(picture.size == shown.size for picture, _ in maps)
    first = np.asarray(maps[0][0]).astype(int)
    colors = np.ptp(first, axis=-1)  # a gray pixel has none
    assert colors[-40:, -40:].max() > colors[:40, :40].max() + 50, "color is where the point looks"
    with pytest.raises(ValueError, match="outside the image"):
        explain_point(predictor, image, (view.width, 0))


def ask(
    path: str = "/",
    method: str = "GET",
    body: bytes = b"",
    host: bytes = b"127.0.0.1:7860",
    hosts: tuple[str, ...] = ("127.0.0.1",),
) -> tuple[int, dict[bytes, bytes], bytes]:
    """What a guard answers before an app that sends back what it was given; the body comes in two parts."""

    async def app(scope: Scope, receive: Any, send: Send) -> None:
        got = (await receive())["body"] if method == "POST" else b""
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": got})

    half = len(body) // 2
    parts = [
        {"type": "http.request", "body": body[:half], "more_body": True},
        {"type": "http.request", "body": body[half:], "more_body": False},
    ]
    sent: list[MutableMapping[str, Any]] = []

    async def receive() -> MutableMapping[str, Any]:
        return parts.pop(0)

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    scope = {"type": "http", "method": method, "path": path, "headers": [(b"host", host)]}
    asyncio.run(Guard(app, hosts, max_upload=100)(scope, receive, send))
    return sent[0]["status"], dict(sent[0]["headers"]), sent[1]["body"]


def test_the_guard_passes_on_and_sets_headers() -> None:
    body = json.dumps({"data": ["x", {"path": "a/b.png", "url": "http://127.0.0.1/file=b.png"}]}).encode()
    status, headers, got = ask("/gradio_api/queue/join", "POST", body)
    assert (status, got) == (200, body)
    assert b"default-src 'self'" in headers[b"content-security-policy"]
    assert headers[b"x-content-type-options"] == b"nosniff"


def test_what_the_guard_refuses() -> None:
    assert ask(host=b"evil.example:7860")[0] == 421
    assert ask(host=b"evil.example:7860", hosts=())[0] == 200
    assert ask(host=b"[::1]:7860", hosts=("::1",))[0] == 200
    for path in ("/gradio_api/proxy=https://x.org/", "/gradio_api/file=https://x.org/a.png", "/monitoring/x"):
        assert ask(path)[0] == 403, path
    for path in ("http://x.org/a.png", "HTTPS://x.org", "file:///etc/passwd"):
        body = json.dumps({"data": [[{"a": {"path": path}}]]})
        assert ask("/gradio_api/run/x", "POST", body.encode())[0] == 403
        assert ask("/gradio_api/run/x", "POST", body.replace(":/", "\\u003a/").encode())[0] == 403, "however written"
    assert ask("/gradio_api/upload", "POST", b"x" * 100)[0] == 200
    assert ask("/gradio_api/upload", "POST", b"x" * 202)[0] == 413
    assert ask("/gradio_api/queue/join", "POST", b"{")[0] == 400
    assert ask("/gradio_api/queue/join", "POST", b"[" * 100_000)[0] == 400
    assert ask("/gradio_api/queue/join", "POST", b" " * 1_000_001)[0] == 413
