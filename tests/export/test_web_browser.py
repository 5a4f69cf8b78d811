"""The static page in headless Chromium: the same numbers as the network itself, and what its visitor is told."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image

import a2mamba
from a2mamba.export.web import find_runtime
from a2mamba.export.web import site as site_module
from a2mamba.predictor import Predictor
from a2mamba.tasks import ClassificationPrediction
from browser import Browser, Tab, needs_chromium
from support import need_onnx

pytestmark = needs_chromium

PAGE = Path(site_module.__file__).parent / "page"


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *arguments: Any) -> None:
        """Say nothing."""


@contextmanager
def static_server(folder: Path) -> Iterator[str]:
    """A folder behind an address, as any web server shows it."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with Browser() as found:
        yield found


def photograph(height: int, width: int) -> Image.Image:
    """Smooth and sharp parts: what resizing differently would change."""
    rows, columns = np.mgrid[0:height, 0:width]
    waves = [127 + 120 * np.sin(rows / (3 + c) + columns / (5 + 2 * c)) for c in range(3)]
    pixels = np.stack(waves, -1)
    pixels[height // 3 : height // 2, width // 4 : width // 2] = (250, 10, 60)
    noise = np.random.default_rng(height).normal(0, 12, pixels.shape)
    return Image.fromarray(np.clip(pixels + noise, 0, 255).astype(np.uint8))


@pytest.mark.parametrize(
    ("size", "resize", "filter", "channels"),
    [
        ((50, 81), 36, "bicubic", 3),
        ((90, 41), 36, "bilinear", 3),
        ((12, 15), 36, "bicubic", 1),
        ((77, 60), (40, 40), "bicubic", 3),
    ],
)
def test_images_are_resized_as_pillow_does(
    browser: Browser, size: tuple[int, int], resize: int | tuple[int, int], filter: str, channels: int
) -> None:
    """Equal pixels: the resize and center crop of torchvision's, which evaluation has."""
    from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Resize

    image = photograph(*size)
    crop = Compose([Resize(resize, InterpolationMode(filter)), CenterCrop((32, 32))])
    expected = np.asarray(crop(image.convert("L" if channels == 1 else "RGB")))
    found = _fitted(browser, image, {"size": [32, 32], "resize": resize, "interpolation": filter}, channels)
    assert np.array_equal(found.reshape(expected.shape), expected)


def test_images_of_any_shape_are_fitted_in(browser: Browser) -> None:
    image = photograph(60, 100)
    found = _fitted(browser, image, {"size": [32, 40], "resize": None, "interpolation": "bilinear"}, 3)
    expected = np.full((32, 40, 3), round(0.5 * 255), np.uint8)
    expected[:24] = np.asarray(image.resize((40, 24), Image.Resampling.BILINEAR))
    assert np.abs(found.reshape(expected.shape).astype(int) - expected).max() <= 1, "the mean's rounding"
    assert np.array_equal(found.reshape(expected.shape)[:24], expected[:24])


def _fitted(browser: Browser, image: Image.Image, page: dict[str, Any], channels: int) -> np.ndarray:
    """What resize.js makes of an image."""
    rgba = np.asarray(image.convert("RGBA")).ravel().tolist()
    given = {"data": rgba, "width": image.width, "height": image.height}
    page = {**page, "mean": [0.5] * channels}
    with static_server(PAGE) as address:
        tab = browser.open(f"{address}style.css")
        values = tab.run(
            f"import('/resize.js').then(({{fitted, withoutAlpha}}) => "
            f"Array.from(fitted(withoutAlpha({json.dumps(given)}, {channels}), {json.dumps(page)}).data))"
        )
    return np.array(values, np.uint8)


class Written(NamedTuple):
    folder: Path
    predictor: Predictor


def write(folder: Path, model: torch.nn.Module, name: str, size: tuple[int, int]) -> Written:
    """A page of a network with random weights; skipped where onnxruntime-web cannot be had."""
    need_onnx()
    try:
        files = find_runtime()
    except OSError as error:
        pytest.skip(str(error))
    torch.save(model.state_dict(), folder / "weights.pth")
    predictor = a2mamba.load(folder / "weights.pth", name=name, device="cpu")
    predictor.export_page(folder / "page", size=size, runtime=files)
    return Written(folder / "page", predictor)


def look(tab: Tab, image: Path) -> dict[str, Any]:
    """What the page says about an image file."""
    tab.wait("window.a2mambaReady", 120)
    tab.run("window.a2mambaResult = null")
    tab.choose_file("#file", image)
    found = tab.wait("window.a2mambaResult", 120)
    assert isinstance(found, dict)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", ["a2mamba_test", "a2mamba_nano"])
def test_probabilities_are_those_of_the_network(browser: Browser, name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = a2mamba.create_model(name, num_classes=7)
    for parameter in model.parameters():  # random weights say the same of every image; larger ones do not
        parameter.data.mul_(1.5)
    page = write(tmp_path, model, name, (224, 224))
    image = tmp_path / "image.png"
    photograph(250, 330).save(image)
    (prediction,) = page.predictor.predict(image)
    with static_server(page.folder) as address:
        tab = browser.open(address)
        found = look(tab, image)
        assert tab.complaints() == []
        assert {url.split("/")[2] for url in tab.requests() if url.startswith("http")} == {address.split("/")[2]}
        assert isinstance(prediction, ClassificationPrediction)
        expected = prediction.probabilities.numpy()
        assert np.abs(np.array(found["probabilities"]) - expected).max() < 1e-3
        best = tab.run("document.querySelector('#entries .name').textContent")
        assert best == page.predictor.classes[int(expected.argmax())]

        (tmp_path / "bad.png").write_bytes(image.read_bytes()[:100])
        tab.choose_file("#file", tmp_path / "bad.png")
        tab.wait("document.querySelector('#status.error')?.textContent.includes('bad.png is not an image')")
        (tmp_path / "x.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
        tab.choose_file("#file", tmp_path / "x.svg")
        tab.wait("document.querySelector('#status.error')?.textContent.includes('SVG')")

        tab.run("window.a2mambaResult = null")
        tab.click("#camera")
        first = tab.wait("window.a2mambaResult?.number", 60)
        tab.wait(f"window.a2mambaResult.number > {first}", 60)
        tab.click("#camera")
        assert tab.run("document.querySelector('#camera').getAttribute('aria-pressed')") == "false"


@pytest.mark.slow
def test_class_maps_are_those_of_the_network(browser: Browser, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = a2mamba.create_segmenter("segman_v2_test", num_classes=4)
    page = write(tmp_path, model, "segman_v2_test", (64, 96))
    image = tmp_path / "image.png"
    photograph(120, 240).save(image)
    trained = page.predictor.network_input
    resized = photograph(120, 240).resize((96, 48), Image.Resampling.BILINEAR)
    pixels = np.empty((64, 96, 3), np.uint8)
    pixels[:] = [round(255 * mean) for mean in trained.mean]
    pixels[:48] = np.asarray(resized)
    values = (torch.tensor(pixels) / 255 - torch.tensor(trained.mean)) / torch.tensor(trained.std)
    with torch.inference_mode():
        expected = page.predictor.model(values.permute(2, 0, 1)[None]).argmax(1)[0].numpy()
    with static_server(page.folder) as address:
        tab = browser.open(address)
        found = look(tab, image)
        assert tab.complaints() == []
        shown = tab.run("[document.querySelector('#overlay').width, document.querySelector('#overlay').height]")
        assert shown == [96, 48], "the padding is not shown"
        classes = np.array([found["classes"][str(i)] for i in range(64 * 96)], np.uint8).reshape(64, 96)
    assert len(np.unique(expected)) > 1
    assert np.mean(classes != expected) <= 1e-3
    shares = np.bincount(classes[:48].ravel(), minlength=4) / (48 * 96)
    assert np.abs(shares - np.array(found["shares"])).max() < 1e-6


@pytest.mark.slow
def test_a_page_without_its_network_says_so(browser: Browser, tmp_path: Path) -> None:
    page = write(tmp_path, a2mamba.create_model("a2mamba_test", num_classes=2), "a2mamba_test", (32, 32))
    (page.folder / "model.onnx").unlink()
    with static_server(page.folder) as address:
        tab = browser.open(address)
        tab.wait("document.querySelector('#status.error')?.textContent.includes('model.onnx: 404')")
