"""Many requests at once to `a2mamba serve`: none may fail, and its memory must not grow.

    python benchmarks/serving.py CHECKPOINT --requests 200 --clients 8

Starts the command as a user does, asks it from threads through Gradio's own client, and prints requests, failures,
seconds, and the server's memory after the first eighth of the requests and at the end. Exit status 1 where a request
failed, or the memory grew by more than --growth.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from gradio_client import Client, handle_file
from PIL import Image


def memory(pid: int) -> float:
    """Megabytes that a process holds."""
    (line,) = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS")]
    return int(line.split()[1]) / 1e3


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", help="as for a2mamba serve")
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--verb", default="classify", choices=["classify", "segment", "detect"])
    parser.add_argument("--growth", type=float, default=100.0, help="megabytes allowed between the two measurements")
    arguments = parser.parse_args()
    command = [sys.executable, "-m", "a2mamba.cli.main", "serve", arguments.network, "--device", "cpu"]
    with (
        tempfile.TemporaryDirectory() as folder,
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server,
    ):
        try:
            assert server.stdout is not None
            url = server.stdout.readline().strip()
            if not url:
                return 1
            return ask_all(url, server.pid, Path(folder), arguments)
        finally:
            server.terminate()


def ask_all(url: str, pid: int, folder: Path, arguments: argparse.Namespace) -> int:
    random = np.random.default_rng(0)
    for i in range(arguments.clients):
        image = random.integers(0, 256, (200 + 40 * i, 300, 3), dtype=np.uint8)
        Image.fromarray(image).save(folder / f"{i}.png")
    failures: list[str] = []
    done: list[float] = []
    warm: list[float] = []
    lock = threading.Lock()

    def work(number: int) -> None:
        client = Client(url, verbose=False, analytics_enabled=False, download_files=str(folder))
        network = client.view_api(return_format="dict", print_info=False)["named_endpoints"][f"/{arguments.verb}"]
        label = network["parameters"][0]["parameter_default"]
        for _ in range(arguments.requests // arguments.clients):
            started = time.perf_counter()
            try:
                client.predict(label, handle_file(str(folder / f"{number}.png")), api_name=f"/{arguments.verb}")
            except Exception as error:
                failures.append(str(error))
            with lock:
                done.append(time.perf_counter() - started)
                if len(done) == arguments.requests // 8:
                    warm.append(memory(pid))

    started = time.perf_counter()
    with ThreadPoolExecutor(arguments.clients) as pool:
        list(pool.map(work, range(arguments.clients)))
    seconds = time.perf_counter() - started
    end = memory(pid)
    print(
        f"{len(done)} requests from {arguments.clients} clients, {len(failures)} failures, {seconds:.1f} s, median "
        f"{np.median(done):.2f} s; memory {warm[0]:.0f} MB after {arguments.requests // 8} requests, {end:.0f} MB at "
        f"the end"
    )
    for failure in failures[:5]:
        print(failure)
    return int(bool(failures) or end - warm[0] > arguments.growth)


if __name__ == "__main__":
    sys.exit(main())
