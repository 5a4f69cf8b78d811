"""The page over HTTP: what it answers, what it refuses, and what it keeps to itself."""

from __future__ import annotations

import io
import os
import shutil
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from a2mamba.serve.networks import Offered
from cli.helpers import in_process
from snippets import ROOT, blocks

from .conftest import serving
from .helpers import Page, RefusedError


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("image") / "image.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)).save(file)
    return file


@pytest.mark.parametrize(
    ("verb", "number", "key"), [("classify", 1, "top"), ("segment", 2, "classes"), ("detect", 3, "objects")]
)
def test_answers_are_those_of_the_predictor(
    page: Page, networks: list[Offered], image: Path, verb: str, number: int, key: str
) -> None:
    label, predictor = networks[number]
    drawing, said, _, entries, view, maps = page.ask(verb, label, page.upload(image))
    (expected,) = predictor.predict(image)
    assert entries[key] == expected.to_dict()[key]
    assert said.startswith("64 x 48 pixels, ")
    shown = Image.open(io.BytesIO(page.fetch(drawing))).convert("RGB")
    assert np.array_equal(np.asarray(shown), np.asarray(expected.drawing().convert("RGB"))), "as the task draws it"
    assert Image.open(io.BytesIO(page.fetch(view))).width == 448
    assert maps == []
    _, maps = page.ask(f"explain_{verb}", label, page.upload(image), 3, 5)
    assert len(maps) == 9
    assert maps[0]["caption"] == "stage 1, sliding"


def test_the_documents_program(
    page: Page, networks: list[Offered], image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (block,) = [each.text for each in blocks((ROOT / "docs" / "serve.md").read_text()) if each.language == "python"]
    for shown, here in (("http://127.0.0.1:7860/", page.url), ("a2mamba_nano", networks[0].label), ("jpg", "png")):
        assert shown in block
        block = block.replace(shown, here)
    shutil.copy(image, tmp_path / "photo.png")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(block, names)
    (expected,) = networks[0].predictor.predict(image)
    assert names["entries"]["top"] == expected.to_dict()["top"]


def test_no_image_is_no_error(page: Page) -> None:
    answer = page.ask("classify", "a2mamba_test", None)
    assert answer[1] == ""
    with pytest.raises(RefusedError, match="choose an image first"):
        page.ask("explain_classify", "a2mamba_test", None, 0, 0)


def refused(page: Page, file: Path, text: str) -> None:
    with pytest.raises(RefusedError, match=text) as error:
        page.ask("classify", "a2mamba_test", page.upload(file))
    assert str(file.parent) not in str(error.value)
    assert "Traceback" not in str(error.value)


def test_files_that_are_no_images_are_refused(page: Page, checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))
    refused(page, tmp_path / "bad.png", "cannot decode bad.png")
    (tmp_path / "x.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>")
    refused(page, tmp_path / "x.svg", "an SVG file")
    refused(page, checkpoint, "cannot decode c.pth: not an image in a known format")
    Image.new("1", (5_000, 5_000)).save(tmp_path / "large.png")
    refused(page, tmp_path / "large.png", "5000 x 5000 pixels; at most 2,000,000 in all are read")
    Image.new("1", (10_000, 10_000)).save(tmp_path / "hundred.png")  # megapixels
    refused(page, tmp_path / "hundred.png", "pixels")
    # Sixty thousand pixels on either side in a few bytes: a decompression bomb.
    content = bytearray((tmp_path / "large.png").read_bytes())
    content[16:24] = (60_000).to_bytes(4, "big") * 2
    (tmp_path / "bomb.png").write_bytes(content)
    refused(page, tmp_path / "bomb.png", "cannot decode bomb.png")


def test_other_networks_and_points_are_refused(page: Page, image: Path) -> None:
    with pytest.raises(RefusedError, match="no network 'segman_v2_test'; expected one of a2mamba_test"):
        page.ask("classify", "segman_v2_test", page.upload(image))
    with pytest.raises(RefusedError, match="outside the image"):
        page.ask("explain_classify", "a2mamba_test", page.upload(image), -1, 5)


def test_files_of_this_machine_are_not_read(page: Page, checkpoint: Path, tmp_path: Path) -> None:
    own = tmp_path / "own.png"
    Image.new("RGB", (8, 8)).save(own)
    here = Path("pyproject.toml").resolve()
    for file in (own, checkpoint, Path("/etc/passwd"), here, page.folder / "examples" / "digit 1.png"):
        for way in (str(file), f"/../../..{file}", f"{page.folder}/uploads/../..{file}"):
            answer = httpx.get(f"{page.url}gradio_api/file={way}")
            assert answer.status_code in (403, 404), way
        payload = {"path": str(file), "meta": {"_type": "gradio.FileData"}}
        with pytest.raises(RefusedError) as error:
            page.ask("classify", "a2mamba_test", payload)
        assert "pixels" not in str(error.value)


def test_nothing_is_fetched(page: Page) -> None:
    address = "http://127.0.0.1:9/a.png"
    payload = {"path": address, "meta": {"_type": "gradio.FileData"}}
    assert page.join("classify", "a2mamba_test", payload).status_code == 403
    body = {"data": ["a2mamba_test", payload]}
    assert httpx.post(f"{page.url}gradio_api/call/classify", json=body).status_code == 403
    for path in (f"gradio_api/proxy={address}", f"gradio_api/file={address}"):
        assert httpx.get(f"{page.url}{path}").status_code == 403


def test_only_this_machine_under_its_own_name(page: Page) -> None:
    assert page.url.startswith("http://127.0.0.1:")
    port = int(page.url.rstrip("/").rpartition(":")[2])
    sockets = [line.split()[1:4] for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    listening = [local for local, _, state in sockets if state == "0A" and int(local.partition(":")[2], 16) == port]
    assert listening == [f"0100007F:{port:04X}"], "127.0.0.1 alone"
    assert httpx.get(page.url, headers={"Host": "evil.example"}).status_code == 421
    answer = httpx.get(page.url)
    assert "default-src 'self'" in answer.headers["content-security-policy"]
    assert "fonts.googleapis" not in answer.text
    config = httpx.get(f"{page.url}config").json()
    assert config["analytics_enabled"] is False
    assert str(page.folder) not in httpx.get(f"{page.url}config").text.replace(str(page.folder / "uploads"), "")


def test_two_gigabytes_are_refused_early(page: Page, tmp_path: Path) -> None:
    file = tmp_path / "huge.png"
    with file.open("wb") as out:
        out.truncate(2 << 30)
    sent = 0

    def parts() -> Iterator[bytes]:
        nonlocal sent
        yield b'--x\r\nContent-Disposition: form-data; name="files"; filename="huge.png"\r\n\r\n'
        with file.open("rb") as content:
            while part := content.read(1 << 20):
                sent += len(part)
                yield part
        yield b"\r\n--x--\r\n"

    try:
        headers = {"Content-Type": "multipart/form-data; boundary=x"}
        answer = httpx.post(f"{page.url}gradio_api/upload", content=parts(), headers=headers)
    except httpx.TransportError:  # the server has closed the connection while the rest was on its way
        pass
    else:
        assert answer.status_code == 413
        assert "more than 1,010,000 bytes" in answer.text
    assert sent < 20_000_000
    kept = [each for each in (page.folder / "uploads").rglob("*") if each.is_file()]
    assert all(each.stat().st_size <= 1_000_000 for each in kept)


def test_many_requests(page: Page, image: Path) -> None:
    """The small form of benchmarks/serving.py: all are answered, each by its own network."""
    classes = {"a2mamba_test": 3, "a2mamba_test (other.pth)": 2}

    def ask(number: int) -> None:
        for label, count in classes.items():
            *_, entries, _, _ = page.ask("classify", label, page.upload(image))
            assert len(entries["top"]) == count

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(ask, range(4)))


@pytest.mark.parametrize(
    ("sign", "status"), [(signal.SIGTERM, 143), pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow)]
)
def test_nothing_is_left(words: list[str], image: Path, tmp_path: Path, sign: signal.Signals, status: int) -> None:
    with serving(tmp_path, words[0]) as page:
        page.ask("classify", "a2mamba_test", page.upload(image))
        assert any((page.folder / "uploads").rglob("image.png"))
        os.kill(page.pid, sign)
        _, ended = os.waitpid(page.pid, 0)
        assert os.waitstatus_to_exitcode(ended) == status
        assert not page.folder.exists()


def test_mistakes_are_one_line(words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    in_process("serve", tmp_path / "no.pt").refused("no.pt")
    in_process("serve", words[0], "--max-pixels", "0").refused("must be at least 1, got '0'")
    monkeypatch.setattr("a2mamba.cli.serve.find_spec", lambda name: None)
    in_process("serve", words[0]).refused('pip install "a2mamba[serve]"')
