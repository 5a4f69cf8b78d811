"""Two versions of the source against each other: which is faster, on a machine whose speed changes by the minute.

    git worktree add ../before HEAD~10
    python benchmarks/compare_trees.py ../before . --models a2mamba_nano a2mamba_tiny --dtype bfloat16

Every pair of a tree and a model gets a process of its own. They take turns, a few forward passes at a time, so that a
slow minute is slow for all; medians and quartiles are of processor time, which other programs disturb least, and the
last column compares with the first tree's. A model of timm's, say convnext_tiny, is measured in both trees: how far its
two rows lie apart is the noise.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trees", type=Path, nargs=2, metavar="TREE", help="before and after: folders with src/a2mamba")
    parser.add_argument("--models", nargs="+", default=["convnext_tiny", "a2mamba_tiny", "a2mamba_nano"])
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="bfloat16: autocast")
    parser.add_argument("--mode", choices=("inference", "training"), default="inference")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--passes", type=int, default=3, help="forward passes of one turn")
    parser.add_argument("--worker", metavar="MODEL", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        work(arguments)
        return 0
    for tree in arguments.trees:
        if not (tree / "src" / "a2mamba").is_dir():
            parser.error(f"{tree} has no src/a2mamba; give the folder of a checkout")
    pairs = [(model, tree) for model in arguments.models for tree in arguments.trees]
    workers = [start(tree, model) for model, tree in pairs]
    times: list[list[float]] = [[] for _ in pairs]
    for _ in range(arguments.rounds):
        for worker, found in zip(workers, times, strict=True):
            assert worker.stdin
            assert worker.stdout
            worker.stdin.write("\n")
            worker.stdin.flush()
            found.append(float(worker.stdout.readline()))
    for worker in workers:
        worker.communicate()
    for i, ((model, tree), found) in enumerate(zip(pairs, times, strict=True)):
        low, middle, high = (1e3 * value for value in statistics.quantiles(found, n=4))
        first = 1e3 * statistics.median(times[i - i % 2])
        print(f"{model:20} {tree!s:24} {middle:8.1f} ms ({low:.1f} - {high:.1f})  {first / middle:.3f}")
    return 0


def start(tree: Path, model: str) -> subprocess.Popen[str]:
    """Start a process that has a model of one tree, and wait until it is warm."""
    environment = dict(os.environ, PYTHONPATH=str(tree.resolve() / "src"))
    worker = subprocess.Popen(
        [sys.executable, __file__, *sys.argv[1:], "--worker", model],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    assert worker.stdout
    if worker.stdout.readline() != "ready\n":
        raise SystemExit(f"{model} of {tree} did not start")
    return worker


def work(arguments: argparse.Namespace) -> None:
    """Measure a turn for every line on stdin: processor seconds of one pass on stdout."""
    import timm
    import torch

    import a2mamba  # noqa: F401  # its models are known to timm then

    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    training = arguments.mode == "training"
    model = timm.create_model(arguments.worker).train(training)
    images = torch.randn(arguments.batch, 3, arguments.size, arguments.size)

    def run() -> None:
        half = arguments.dtype == "bfloat16"
        with torch.autocast("cpu", torch.bfloat16) if half else contextlib.nullcontext():
            out = model(images)
        if training:
            model.zero_grad()
            out.float().square().mean().backward()

    with contextlib.nullcontext() if training else torch.inference_mode():
        for _ in range(3):
            run()
        print("ready", flush=True)
        for _ in sys.stdin:
            begin = time.process_time()
            for _ in range(arguments.passes):
                run()
            print((time.process_time() - begin) / arguments.passes, flush=True)


if __name__ == "__main__":
    sys.exit(main())
