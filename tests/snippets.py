"""The code that documents show, and running it.

A document is one program: its shell and Python blocks run from top to bottom in one folder, Python blocks in one
namespace, as in a notebook. The folder is prepared (:func:`prepare`), and the command `a2mamba` is asked for the small
form of what it does (:data:`SMALLER`). What is not run has a reason here, in :data:`NOT_RUN`.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from PIL import Image

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]

SHELL = ("bash", "sh", "console")
PYTHON = ("python", "py")
_COMMAND = re.compile(r"(?:[A-Z_]+=\S+ )*(?:export |\$ )?(?:\.venv/bin/)?(?:a2mamba|python|pip|make|torchrun)\b")

NOT_RUN = {
    "a2mamba serve": "goes on until it is stopped; tests/serve starts it",
    "gradio_client": "asks a page that is up; tests/serve/test_server.py runs it",
    "http.server": "goes on until it is stopped; tests/export shows the page in Chromium",
    "onnxruntime-web-1.30.0.tgz": "a file that the reader has fetched",
    "pip install": "changes the environment that the tests run in",
    "make ": "CI runs these targets, or they install and clean",
    "torchrun": "needs several GPUs; tests/engine/test_distributed.py runs processes under torchrun",
    "python benchmarks/": "hours on a quiet machine; tests/ has a small form of each script",
    "bench --models": "minutes on a quiet machine; tests/cli/test_commands.py runs the command",
    "--measure": "minutes on a quiet machine; tests/cli/test_paper.py runs the command",
    "DIR": "a synopsis: DIR, FILE and RECIPE stand for the reader's own",
    "RECIPE": "a synopsis",
    "--pretrained cityscapes": "downloads from Google Drive; tests/weights plays the server",
    'pretrained="cityscapes"': "downloads from Google Drive; tests/weights plays the server",
    "segman_s_ade20k.pth": "a file that the reader has downloaded",
    "--checkpoint segman_t.pth photos": "a file that the reader has; tests/cli/test_explain.py runs the command",
    "export segman_t.pth": "files that the reader has; tests/export writes every format",
    "--images photos --pretrained": "downloads the weights of timm's models",
    "hub push": "needs an account; tests/hub plays the server",
    "model.backbone._backbone": "the small run has another network; tests run examples/transformers_upernet.py",
    "about = json.load(open(sys.argv[1]": "a script with arguments: tests/cli/test_export.py runs it without PyTorch",
}
"""Text of a block -> why the block is not run."""

SMALLER: dict[str, list[str]] = {
    "train": ["--small", "--quiet"],
    "fit": ["--epochs", "1", "--quiet"],
    "demo": ["--small"],
}
"""Command -> words behind those of the document: what takes minutes takes seconds."""

PUBLISHED = {"/data/imagenet": "imagenet", "/data/ADEChallengeData2016": "ADEChallengeData2016", "/data/coco": "coco"}
"""Where documents have the published data sets -> the part of the embedded data in the same layout."""


class Block(NamedTuple):
    """A block of code: what it is written in, its text, and the line where it begins, counted from 1."""

    language: str
    text: str
    line: int


def fenced(text: str) -> list[Block]:
    """The fenced blocks of a document."""
    fence = re.compile(
        r"^(?P<indent>[ \t]*)```(?P<language>[\w+-]*)[^\n]*\n(?P<body>.*?)^[ \t]*```[ \t]*$",
        flags=re.MULTILINE | re.DOTALL,
    )
    return [
        Block(found["language"], _dedented(found["body"], found["indent"]), text[: found.start("body")].count("\n") + 1)
        for found in fence.finditer(text)
    ]


def blocks(text: str) -> list[Block]:
    """The shell and Python blocks of a document in their order; indented commands are shell, too."""
    found = [block for block in fenced(text) if block.language in SHELL + PYTHON]
    outside = text
    for block in fenced(text):
        outside = outside.replace(block.text, "\n" * block.text.count("\n"), 1)
    for indented in re.finditer(r"(?<=\n\n)(?: {4}[^\n]*\n)+", outside):
        body = _dedented(indented[0], "    ")
        if _COMMAND.match(body):
            found.append(Block("bash", body, outside[: indented.start()].count("\n") + 1))
    return sorted(found, key=lambda block: block.line)


def _dedented(body: str, indent: str) -> str:
    return "".join(line.removeprefix(indent) for line in body.splitlines(keepends=True))


def why_not(block: Block) -> str | None:
    """The reason why a block is not run; None: it is."""
    return next((reason for text, reason in NOT_RUN.items() if text in block.text), None)


def to_run(document: Path) -> list[Block]:
    """The blocks of a document that are run."""
    return [block for block in blocks(document.read_text()) if why_not(block) is None]


def prepare(folder: Path) -> None:
    """Make what documents may find in their folder.

    data/: a small part of the embedded data, in place of the published sets and of `a2mamba data demo`;
    photos/: class folders; photo.jpg, photo.png; runs/digits: a finished small run; hub/: a cache of the hub with
    random weights.
    """
    command = [sys.executable, "-m", "a2mamba"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}

    def run(*words: str) -> None:
        subprocess.run([*command, *words], cwd=folder, env=environment, check=True, timeout=600)

    run("data", "demo", "data", "--small")
    for split, count in ("train", 24), ("val", 6):
        for digit in (folder / "data" / "imagenet" / split).iterdir():
            for image in sorted(digit.iterdir())[count:]:
                image.unlink()
    shutil.copytree(folder / "data" / "imagenet" / "train", folder / "photos")
    photo = min((folder / "data" / "coco" / "val2017").iterdir())
    for name in ("photo.jpg", "photo.png"):
        Image.open(photo).save(folder / name)
    run("train", "digits", "--small", "--quiet", "data.root=data/imagenet")
    subprocess.run([sys.executable, "-c", _HUB, folder / "hub"], env=environment, check=True, timeout=600)


_HUB = """
import sys, pathlib, torch, a2mamba
repository = pathlib.Path(sys.argv[1], "hub", "models--LMMM2025--A2Mamba")
files = repository / "snapshots" / "0" / "a2mamba_pretrained_weights"
files.mkdir(parents=True)
(repository / "refs").mkdir()
(repository / "refs" / "main").write_text("0")
for name in ("nano", "tiny"):
    torch.save(a2mamba.to_released(a2mamba.create_model(f"a2mamba_{name}")), files / f"a2mamba_{name}.pth")
"""

_PROGRAM = """
import json, os, subprocess
with open("program.json", encoding="utf-8") as file:
    program = json.load(file)
os.remove("program.json")
for language, text, line in program["blocks"]:
    print(f"--- {program['name']}:{line}", flush=True)
    if language == "python":
        exec(compile("\\n" * (line - 1) + text, program["name"], "exec"), globals())
    else:
        subprocess.run(["bash", "-euo", "pipefail", "-c", text], check=True)
"""


def run_document(
    document: Path, program: list[Block], prepared: Path, folder: Path, *, timeout: float
) -> subprocess.CompletedProcess[str]:
    """Run blocks of a document in a copy of the prepared folder; stdout and stderr together say what happened."""
    trains = any("a2mamba train digits" in block.text for block in program)
    made = ["hub", "runs"] if trains else ["hub"]  # a run is not made where one is
    shutil.copytree(prepared, folder, ignore=shutil.ignore_patterns(*made), dirs_exist_ok=True)
    shim = folder / "bin" / "a2mamba"
    shim.parent.mkdir()
    shim.write_text(f"#!{sys.executable}\nimport snippets\nsnippets.smaller_command()\n")
    shim.chmod(0o755)
    name = document.relative_to(ROOT).as_posix()
    written = [("python" if block.language in PYTHON else "bash", block.text, block.line) for block in program]
    (folder / "program.json").write_text(json.dumps({"name": name, "blocks": written}))
    (folder / "program.py").write_text(_PROGRAM)
    environment = {
        **os.environ,
        "PATH": os.pathsep.join([str(shim.parent), str(Path(sys.executable).parent), os.environ["PATH"]]),
        "PYTHONPATH": os.pathsep.join(path for path in (str(Path(__file__).parent), *sys.path) if path),
        "OMP_NUM_THREADS": "1",
        "HF_HOME": str(prepared / "hub"),
        "HF_HUB_OFFLINE": "1",
        "XDG_CACHE_HOME": str(folder / "cache"),
    }
    return subprocess.run(
        [sys.executable, "program.py"],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout,
        check=False,
    )


def smaller_command() -> None:
    """Be `a2mamba` in a document's folder: the command, made smaller."""
    from a2mamba.cli.main import main

    words = sys.argv[1:]
    if words[:2] == ["data", "demo"]:  # made once for all documents
        shutil.copytree("data", words[2], dirs_exist_ok=True)
        sys.exit()
    for published, part in PUBLISHED.items():
        words = [re.sub(rf"(^|=){published}\b", rf"\1data/{part}", word) for word in words]
    if words[0] == "train":  # there are no weights of the debug form's network
        words = [word for word in words if word != "model.pretrained_backbone=true"]
    sys.exit(main([*words, *SMALLER.get(words[0], ())]))
