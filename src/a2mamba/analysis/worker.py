"""A model that is timed in a process of its own.

Models that share a process share its heap: what one leaves behind decides which pages the next gets, and on a CPU that
changes a small network's time by a tenth. People run one model in a process; so it is measured.

The process (`python -m a2mamba.analysis.worker`) prepares its model, says so, and then runs two batches for every line
that it reads, the second of them timed. Both sides talk in lines of JSON; whatever a library prints goes to stderr.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from contextlib import ExitStack, closing
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from a2mamba.analysis.runners import Runner, Setting


class Worker:
    """A process with one model: like a :class:`Runner` from outside.

    Args:
        name, setting: see :class:`Runner`.
        task: "time", or "memory": what a batch takes beyond model and input, once.
        warm_up: untimed batches before the first timed one.

    Raises:
        ValueError: as a :class:`Runner` raises it, or if the process ends.
        ImportError: as a :class:`Runner` raises it.
    """

    def __init__(self, name: str, setting: Setting, task: str = "time", warm_up: int = 1) -> None:
        order = {"name": name, "setting": asdict(setting), "task": task, "warm_up": warm_up}
        order["threads"] = torch.get_num_threads()
        with ExitStack() as stack:
            self.errors = stack.enter_context(tempfile.TemporaryFile("w+"))
            self.process = subprocess.Popen(
                [sys.executable, "-m", "a2mamba.analysis.worker", json.dumps(order)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self.errors,
                text=True,
            )
            stack.callback(self._end)
            self.about = self._answer()
            self.resources = stack.pop_all()
        self.parameters = int(self.about["parameters"])
        self.fused = bool(self.about["fused"])

    def time(self) -> float:
        """Return the seconds of one batch."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write("\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # it has ended: there is no answer either
        return float(self._answer()["seconds"])

    def close(self) -> None:
        """End the process."""
        self.resources.close()

    def _end(self) -> None:
        try:
            self.process.communicate(timeout=20)  # without further lines it ends by itself, and tidies up
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.communicate()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            self.process.wait()
            self.errors.seek(0)
            said = self.errors.read().strip().splitlines() or [f"exit status {self.process.returncode}"]
            raise ValueError(f"the process that measures it ended: {said[-1]}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise {"ImportError": ImportError}.get(answer["kind"], ValueError)(answer["error"])
        return answer


def _serve(order: dict[str, Any]) -> None:
    """Be the process of a :class:`Worker`."""
    with os.fdopen(os.dup(1), "w") as answers:
        os.dup2(2, 1)

        def answer(**about: Any) -> None:
            print(json.dumps(about), file=answers, flush=True)

        torch.set_num_threads(order["threads"])
        setting = Setting(**order["setting"])
        try:
            runner = Runner(order["name"], setting)
            memory = _growth(order["name"], runner) if order["task"] == "memory" else None
            if memory is None:
                runner.warm_up(order["warm_up"])
        except (ValueError, ImportError) as error:
            answer(error=str(error), kind="ImportError" if isinstance(error, ImportError) else "ValueError")
            return
        answer(parameters=runner.parameters, fused=runner.fused, threads=torch.get_num_threads(), memory=memory)
        with closing(runner):
            for _ in sys.stdin:
                # The caches are other processes' by now, whose threads may still be waiting for work, actively.
                runner.step()
                answer(seconds=runner.time())


def _growth(name: str, runner: Runner) -> float:
    """Return how far the resident memory of this process rises during one batch, in MiB; Linux only."""
    setting = runner.setting
    # A small image first: libraries allocate their code and buffers once, whatever the model.
    with closing(Runner(name, replace(setting, size=min(64, setting.size), batch=1))) as small:
        small.step()
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak to what is resident now
    before = _status_kib("VmRSS")
    runner.step()
    return (_status_kib("VmHWM") - before) / 1024


def _status_kib(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))


if __name__ == "__main__":
    _serve(json.loads(sys.argv[1]))
