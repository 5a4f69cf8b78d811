"""The static page without a browser: what is written, what is refused, and where the runtime comes from."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import tarfile
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import torch

import a2mamba
from a2mamba.export.web import check_page, find_runtime, runtime, write_page
from cli.helpers import in_process


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and no network."""

    def refuse(*_: object, **__: object) -> None:
        raise urllib.error.URLError("no network here")

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    return tmp_path / "cache" / "a2mamba"


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A folder with the names of onnxruntime-web's files."""
    folder = tmp_path / "runtime"
    folder.mkdir()
    for name in runtime.FILES:
        (folder / name).write_text(f"this is {name}")
    return folder


def package(path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package as npm packs it, and its digest as the expected one."""
    with tarfile.open(path, "w:gz") as archive:
        for name in ("package/package.json", "../outside", *(f"package/dist/{each}" for each in runtime.FILES)):
            member = tarfile.TarInfo(name)
            content = name.encode()
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    digest = base64.b64encode(hashlib.sha512(path.read_bytes()).digest()).decode()
    monkeypatch.setattr(runtime, "INTEGRITY", f"sha512-{digest}")
    return path


ABOUT: dict[str, Any] = {
    "model": "a2mamba_test",
    "task": "classification",
    "bytes": 3,
    "input": {"name": "images", "dtype": "float32", "shape": ["batch", 3, 32, 48], "normalized": True},
    "outputs": ["logits"],
    "size": [32, 48],
    "mean": [0.5, 0.5, 0.5],
    "std": [0.2, 0.2, 0.2],
    "classes": ["<b>", "Zürich"],
    "weights": "of a folder that is nobody's business",
}


def test_the_folder_is_whole(files: Path, tmp_path: Path) -> None:
    index = write_page(tmp_path / "page", ABOUT, runtime=files, resize=36, interpolation="bicubic")
    assert index == tmp_path / "page" / "index.html"
    written = sorted(str(file.relative_to(tmp_path / "page")) for file in index.parent.rglob("*") if file.is_file())
    ours = ["index.html", "page.js", "page.json", "resize.js", "style.css", "worker.js"]
    assert written == sorted([*ours, *(f"runtime/{name}" for name in runtime.FILES)])
    about = json.loads((tmp_path / "page" / "page.json").read_text(encoding="utf-8"))
    assert about["classes"] == ABOUT["classes"]
    assert (about["resize"], about["interpolation"], about["palette"]) == (36, "bicubic", [])
    assert "weights" not in about, "a page is published; what it need not know stays out"
    text = "".join((tmp_path / "page" / name).read_text(encoding="utf-8") for name in ours if name != "page.json")
    assert "http:" not in text
    assert "https:" not in text


def test_what_a_page_cannot_show() -> None:
    check_page("segmentation", channels=1, interpolation="bilinear")
    with pytest.raises(ValueError, match="a page for detection cannot be made yet"):
        check_page("detection", channels=3, interpolation="bilinear")
    with pytest.raises(ValueError, match="takes 4 channels"):
        check_page("classification", channels=4, interpolation="bilinear")
    with pytest.raises(ValueError, match="interpolation 'lanczos'"):
        check_page("classification", channels=3, interpolation="lanczos")


def test_the_runtime_of_a_folder(cache: Path, files: Path, tmp_path: Path) -> None:
    assert find_runtime(files) == files
    installed = tmp_path / "node_modules" / "onnxruntime-web" / "dist"
    installed.parent.mkdir(parents=True)
    files.rename(installed)
    assert find_runtime(installed.parent) == installed
    assert find_runtime(tmp_path) == installed
    (installed / runtime.FILES[0]).unlink()
    with pytest.raises(ValueError, match=r"does not have ort\.wasm\.min\.mjs"):
        find_runtime(tmp_path)
    assert not cache.exists()


def test_the_runtime_of_a_package(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = package(tmp_path / "x.tgz", monkeypatch)
    found = find_runtime(archive)
    assert found.parent == cache
    assert sorted(file.name for file in cache.rglob("*") if file.is_file()) == sorted(runtime.FILES)
    assert (found / runtime.FILES[0]).read_text() == f"package/dist/{runtime.FILES[0]}"
    assert find_runtime() == found, "kept, and used without a network"


def test_another_package_is_refused(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = package(tmp_path / "x.tgz", monkeypatch)
    archive.write_bytes(archive.read_bytes() + b"\0")
    with pytest.raises(ValueError, match=r"x\.tgz is not onnxruntime-web .* its digest is sha512-"):
        find_runtime(archive)
    assert not cache.exists()


def test_the_runtime_is_downloaded_once(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = package(tmp_path / "x.tgz", monkeypatch).read_bytes()
    asked = []

    def answer(address: str, timeout: float) -> io.BytesIO:
        asked.append(address)
        return io.BytesIO(content)

    monkeypatch.setattr(urllib.request, "urlopen", answer)
    assert find_runtime() == find_runtime()
    assert asked == [runtime.ADDRESS]
    monkeypatch.setattr(runtime, "VERSION", "other")
    monkeypatch.setattr(runtime, "_LARGEST", 10)
    with pytest.raises(ValueError, match="sends more than 10 bytes"):
        find_runtime()


def test_without_a_network_it_is_said_how(cache: Path) -> None:
    with pytest.raises(OSError, match=r"cannot download https://registry\.npmjs\.org/.* no network here.* --runtime"):
        find_runtime()
    assert not cache.exists()


def test_mistakes_come_before_the_work(cache: Path, files: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    torch.save(a2mamba.create_detector("mask_rcnn_a2mamba_test", num_classes=2).state_dict(), tmp_path / "d.pth")
    predictor = a2mamba.load(tmp_path / "d.pth", name="mask_rcnn_a2mamba_test", device="cpu")
    with pytest.raises(ValueError, match="detection cannot"):
        predictor.export_page(tmp_path / "page", runtime=files)
    torch.save(a2mamba.create_model("a2mamba_test", num_classes=2).state_dict(), tmp_path / "c.pth")
    predictor = a2mamba.load(tmp_path / "c.pth", name="a2mamba_test", device="cpu")
    with pytest.raises(OSError, match="cannot download"):
        predictor.export_page(tmp_path / "page")
    assert not (tmp_path / "page").exists()


def test_the_words_of_the_command(cache: Path, files: Path, tmp_path: Path) -> None:
    torch.save(a2mamba.create_model("a2mamba_test", num_classes=2).state_dict(), tmp_path / "c.pth")
    (files / runtime.FILES[0]).unlink()
    web = ("--name", "a2mamba_test", "--runtime", files, "--format", "web")
    for words in (
        ("--checkpoint", tmp_path / "c.pth", *web, tmp_path / "page"),
        (tmp_path / "c.pth", *web, "--out", tmp_path / "page"),
    ):
        in_process("export", *words).refused("does not have ort.wasm.min.mjs")
    in_process("export", tmp_path / "c.pth", *web, "a", "b").refused("'a b': expected one CHECKPOINT, and one place")
    in_process("export", tmp_path / "c.pth", *web, "--pixels").refused("leave --output and --pixels out")
    in_process("export", tmp_path / "c.pth", "--runtime", files).refused("--runtime is for --format web")
    assert not (tmp_path / "page").exists()
