"""Is work ever lost? Runs are killed, divided among processes, cut off and poisoned; what comes out is compared.

    python benchmarks/reliability.py kill --times 30      SIGKILL and SIGTERM at random moments, then resumed
    python benchmarks/reliability.py distribution         2 and 3 processes against 1, and resumed by others
    python benchmarks/reliability.py lost                 one process of several is killed
    python benchmarks/reliability.py faults               undecodable images, a full disk, NaN in an activation
    python benchmarks/reliability.py all --json -         everything, as JSON

A table on stdout, JSON with --json FILE ("-" for stdout). The exit status is 1 where something did not hold. The run
that all this is done to is in `reliability_run.py`; it needs scikit-learn's digits (the extra `demo`) and no GPU.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from reliability_run import Child, Plan, run, start

from a2mamba.data import write_demo
from a2mamba.engine import CheckpointManager, load_checkpoint_file

Row = dict[str, Any]
TOLERANCE = 1e-5
"""largest relative difference of a loss between numbers of processes"""
PATIENCE = 60.0
"""seconds in which the other processes have to end when one is lost"""


def digits(folder: Path) -> str:
    """The demo's digits in ImageNet's layout; written where they are missing."""
    if not (folder / "imagenet").is_dir():
        write_demo(folder, segmentation_scenes=1, train_scenes=1, val_scenes=1)
    return str(folder / "imagenet")


# ---------------------------------------------------------------------------------------------------------------- kill


def _end_at(child: Child, number: signal.Signals, moment: float, write: int | None, slow: float) -> Row:
    """Sends the signal `moment` (0 to 1) of the way through the run, or of the write-th write of a checkpoint."""
    step, writes, writing = 0, 0, False
    deadline: float | None = None
    while True:
        wait = 120.0 if deadline is None else max(0.0, deadline - time.monotonic())
        if not child.pipe.poll(wait):
            assert child.process.pid is not None
            os.kill(child.process.pid, number)
            break
        try:
            what, *rest = child.pipe.recv()
        except EOFError:
            break
        if what == "begin" and write is None:
            deadline = time.monotonic() + moment
        elif what == "step":
            step = rest[0]
        elif what == "writing":
            writes, writing = writes + 1, True
            if writes == write:
                deadline = time.monotonic() + moment * slow
        elif what == "written":
            writing = False
        elif what == "end":
            break
    child.result()
    return {"step": step, "while_writing": writing, "status": child.process.exitcode}


def kill(data: str, *, times: int, seed: int = 0, plan: Plan | None = None) -> list[Row]:
    """`times` runs killed by SIGKILL, a third of them inside of a write, and a third as many ended by SIGTERM.

    Each is resumed by the same call, as `--resume auto` does, and its final state compared with an uninterrupted run's,
    bit by bit: model, average, optimizer, best, losses and metrics of every epoch.
    """
    generator = random.Random(seed)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        base = plan if plan is not None else Plan(data=data, folder="", images=64, slow_write=0.1)
        whole = start(replace(base, folder=f"{folder}/whole"))[0]
        began, writes = 0.0, 0
        expected: Row = {}
        for what, *rest in whole.messages():
            began = time.monotonic() if what == "begin" else began
            writes += what == "writing"
            expected = rest[0] if what == "end" else expected
        seconds = time.monotonic() - began
        assert expected["status"] == 0, expected["error"]
        signals = [signal.SIGKILL] * times + [signal.SIGTERM] * max(1, times // 3)
        for index, number in enumerate(signals):
            own = replace(base, folder=f"{folder}/{index}")
            in_write = number == signal.SIGKILL and index % 3 == 0
            write = generator.randrange(1, writes + 1) if in_write else None
            moment = generator.random() * (1.0 if in_write else 0.95 * seconds)
            child = start(own)[0]
            row: Row = {"signal": number.name} | _end_at(child, number, moment, write, base.slow_write)
            resumed = run(own)[0]
            row |= {"resumed_at": resumed["first"], "ended": resumed["error"] or "whole"}
            row["identical"] = resumed["digest"] == expected["digest"]
            row["holds"] = row["identical"] and row["status"] in (-number.value, 128 + number.value, 0)
            rows.append(row)
            shutil.rmtree(own.folder)
    return rows


# -------------------------------------------------------------------------------------------------------- distribution


def _difference(found: Row, expected: Sequence[float]) -> float:
    """The largest relative difference of a step's loss."""
    pairs = list(zip(found["losses"], expected[found["first"] :], strict=False))
    assert pairs, found["error"]
    return max(abs(a - b) / abs(b) for a, b in pairs)


def distribution(data: str, *, steps: int = 20, sizes: Sequence[int] = (2, 3), resume: bool = True) -> list[Row]:
    """The same run on several processes: its losses at each step against those of one process.

    Without drop path, whose masks are drawn by each process. Synchronized batch norm is on, except in one run that
    shows that the comparison would notice.
    """
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        base = Plan(data=data, folder="", drop_path=0.0, batch=12, epochs=2 + steps // 8, every_steps=None)
        base = replace(base, stop_after=steps)
        alone = run(replace(base, folder=f"{folder}/one"))[0]
        assert alone["error"] is None, alone["error"]
        expected = alone["losses"]

        def add(name: str, results: list[Row], *, agree: bool = True) -> None:
            errors = [result.get("error") or "" for result in results if result.get("status") != 0]
            row: Row = {"run": name, "steps": len(results[0].get("losses", [])), "error": "; ".join(errors) or None}
            if not errors:
                row["difference"] = _difference(results[0], expected)
                row["same_everywhere"] = len({result["digest"] for result in results}) == 1
                row["holds"] = row["same_everywhere"] and (row["difference"] <= TOLERANCE) == agree
            rows.append({"holds": False} | row)

        for size in sizes:
            add(f"on {size}", run(replace(base, folder=f"{folder}/{size}"), processes=size))
        plain = replace(base, folder=f"{folder}/plain", sync_batch_norm=False)
        add(f"on {sizes[0]}, batch norm not synchronized (must differ)", run(plain, processes=sizes[0]), agree=False)
        if not resume:
            return rows
        half = replace(base, folder=f"{folder}/half", stop_after=steps // 2)
        run(half, processes=2)
        for size in (1, 3):
            rest = replace(base, folder=f"{folder}/rest")
            shutil.copytree(half.folder, rest.folder)
            add("on 2, resumed " + ("alone" if size == 1 else f"on {size}"), run(rest, processes=size))
            shutil.rmtree(rest.folder)
    return rows


def lost(data: str, *, sizes: Sequence[int] = (2, 3)) -> list[Row]:
    """One of several processes is killed: how long the others take to end, what they say, and what is left."""
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        for size in sizes:
            plan = Plan(data=data, folder=f"{folder}/{size}", drop_path=0.0, batch=12, every_steps=2, pause=0.05)
            children = start(plan, processes=size)
            step = 0
            for message in children[-1].messages():
                step = message[1] if message[0] == "step" else step
                if step == 5:
                    break
            victim = children[-1].process
            assert victim.pid is not None
            os.kill(victim.pid, signal.SIGKILL)
            began = time.monotonic()
            results = [child.result(PATIENCE) for child in children[:-1]]
            seconds = time.monotonic() - began
            newest = CheckpointManager(Path(plan.folder) / "checkpoints").latest()
            resumed = run(replace(plan, pause=0.0))[0]
            row: Row = {"processes": size, "seconds": seconds, "message": results[0].get("error")}
            row["checkpoint"] = None if newest is None else newest[0].name
            row["resumed_at"] = resumed["first"]
            row["holds"] = (
                seconds < PATIENCE
                and all("another process of this run has ended" in (r.get("error") or "") for r in results)
                and resumed["status"] == 0
                and resumed["first"] > 0
            )
            rows.append(row)
    return rows


# -------------------------------------------------------------------------------------------------------------- faults


def _damage(files: Sequence[Path]) -> dict[str, str]:
    """Makes each file undecodable, in one of four ways in turn; file -> way."""
    import struct
    import zlib

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0)
    huge = (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(60_001)))
        + chunk(b"IEND", b"")
    )
    ways = {
        "truncated": lambda file: file.write_bytes(file.read_bytes()[: file.stat().st_size // 2]),
        "empty": lambda file: file.write_bytes(b""),
        "text named as an image": lambda file: file.write_text("this is not an image\n"),
        "20,000 x 20,000 pixels": lambda file: file.write_bytes(huge),
    }
    done = {}
    for index, file in enumerate(files):
        way = list(ways)[index % len(ways)]
        ways[way](file)
        done[str(file)] = way
    return done


def undecodable(data: str, *, share: float = 0.05, images: int = 96) -> Row:
    """A share of the training images is damaged: the run completes and names each; one more than is borne ends it."""
    with tempfile.TemporaryDirectory() as folder:
        own = Path(folder) / "data"
        shutil.copytree(Path(data) / "val", own / "val")
        for index, file in enumerate(
            sorted((Path(data) / "train").glob("*/*"))[:: len(list((Path(data) / "train").glob("*/*"))) // images][
                :images
            ]
        ):
            (own / "train" / file.parent.name).mkdir(parents=True, exist_ok=True)
            shutil.copy(file, own / "train" / file.parent.name / f"{index:04d}{file.suffix}")
        files = sorted((own / "train").glob("*/*"))
        count = round(share * len(files))
        chosen = random.Random(1).sample(files, count)
        damaged = _damage(chosen)
        plan = Plan(data=str(own), folder=f"{folder}/run", images=None, epochs=2, largest_share=count / len(files))
        result = run(plan)[0]
        report = json.loads((Path(plan.folder) / "quarantine.json").read_text())
        named = report["quarantined"]
        again = run(replace(plan, folder=f"{folder}/strict", largest_share=(count - 0.5) / len(files)))[0]
        return {
            "fault": f"{count} of {len(files)} training images undecodable",
            "status": result["status"],
            "named": len(named),
            "reasons": {damaged[name]: reason for name, reason in named.items()},
            "error_above_the_share": again["error"],
            "holds": result["status"] == 0
            and named.keys() == damaged.keys()
            and again["status"] == 1
            and "cannot be decoded" in str(again["error"]),
        }


def disk_full(data: str) -> Row:
    """The system refuses to let a checkpoint grow to its size: the one before is intact and the run resumes exactly."""
    with tempfile.TemporaryDirectory() as folder:
        plan = Plan(data=data, folder=f"{folder}/run", images=64, every_steps=None)
        whole = run(replace(plan, folder=f"{folder}/whole"))[0]
        cut = run(replace(plan, file_limit=100_000))[0]
        checkpoints = Path(plan.folder) / "checkpoints"
        newest = CheckpointManager(checkpoints).latest()
        left = sorted(file.name for file in checkpoints.iterdir())
        intact = newest is not None and load_checkpoint_file(newest[0])["progress"]["epoch"] == 1
        resumed = run(plan)[0]
        return {
            "fault": "no space for a checkpoint after the second epoch",
            "status": cut["status"],
            "error": str(cut["error"]).replace(folder, "..."),
            "files_left": left,
            "identical": resumed["digest"] == whole["digest"],
            "holds": cut["status"] == 1
            and "cannot save the checkpoint" in str(cut["error"])
            and intact
            and not any(name.endswith(".tmp") for name in left)
            and resumed["digest"] == whole["digest"],
        }


def not_a_number(data: str, *, seeds: int = 3, epochs: int = 8, images: int = 512) -> Row:
    """NaN in an activation: once, and four times in a row; accuracy against runs without, over seeds."""
    accuracy: dict[str, list[float]] = {}
    counts: dict[str, list[Row]] = {}
    with tempfile.TemporaryDirectory() as folder:
        per_epoch = images // 32
        kinds = {
            "none": (),
            "one step": (2 * per_epoch + 3,),
            "four steps in a row": tuple(range(3 * per_epoch + 2, 3 * per_epoch + 6)),
        }
        for kind, steps in kinds.items():
            for seed in range(seeds):
                plan = Plan(data=data, folder=f"{folder}/{kind}-{seed}", seed=seed, poison=steps, images=images)
                result = run(replace(plan, epochs=epochs, batch=32, every_steps=None, lr=4e-3))[0]
                assert result["status"] == 0, result["error"]
                accuracy.setdefault(kind, []).append(result["history"][-1]["ema_top1"])
                counts.setdefault(kind, []).append(result["faults"])
    means = {kind: sum(values) / seeds for kind, values in accuracy.items()}
    noise = max(accuracy["none"]) - min(accuracy["none"])
    worst = max(abs(means[kind] - means["none"]) for kind in means)
    return {
        "fault": "NaN in an activation",
        "top1": accuracy,
        "mean": means,
        "range_without": noise,
        "largest_difference_of_means": worst,
        "counts": {kind: rows[0] for kind, rows in counts.items()},
        "holds": worst <= max(noise, 100 / (images // 2))
        and all(row == {"skipped": 1, "in_a_row": 0, "recoveries": 0} for row in counts["one step"])
        and all(row == {"skipped": 3, "in_a_row": 0, "recoveries": 1} for row in counts["four steps in a row"]),
    }


def faults(data: str) -> list[Row]:
    return [undecodable(data), disk_full(data), not_a_number(data)]


# ------------------------------------------------------------------------------------------------------------- command


def _show(name: str, rows: list[Row]) -> None:
    print(f"\n{name}: {sum(row['holds'] for row in rows)} of {len(rows)} hold")
    for row in rows:
        print("  " + ", ".join(f"{key}={_text(value)}" for key, value in row.items()))


def _text(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", choices=["kill", "distribution", "lost", "faults", "all"])
    parser.add_argument("--times", type=int, default=30, help="kills by SIGKILL")
    parser.add_argument("--seed", type=int, default=0, help="of the random moments")
    parser.add_argument("--data", type=Path, help="folder for the demo data; a temporary one if not given")
    parser.add_argument("--json", help="write the rows to this file, - for stdout instead of the table")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        data = digits(arguments.data or Path(folder) / "demo")
        experiments = {
            "kill": lambda: kill(data, times=arguments.times, seed=arguments.seed),
            "distribution": lambda: distribution(data),
            "lost": lambda: lost(data),
            "faults": lambda: faults(data),
        }
        wanted = list(experiments) if arguments.what == "all" else [arguments.what]
        results = {}
        for name in wanted:
            results[name] = experiments[name]()
            if arguments.json != "-":
                _show(name, results[name])
    if arguments.json == "-":
        print(json.dumps(results, indent=2))
    elif arguments.json:
        Path(arguments.json).write_text(json.dumps(results, indent=2) + "\n")
    return 0 if all(row["holds"] for rows in results.values() for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
