"""Functions of the tests in several processes of this machine, as torchrun would start them."""

from __future__ import annotations

import multiprocessing
import os
import socket
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import torch

CONTEXT = multiprocessing.get_context("forkserver")
# Imported once, by the server: the processes then begin at once. (Only what is installed: it does not know tests.)
CONTEXT.set_forkserver_preload(
    [
        *("torch._dynamo", "timm.optim", "timm.scheduler"),
        *("a2mamba", "a2mamba.engine", "a2mamba.data", "a2mamba.evaluation"),
    ]
)


def run_together(function: Callable[..., Any], processes: int, *arguments: Any, timeout: float = 120.0) -> list[Any]:
    """What `function(*arguments)` returns in each of several processes, or its exception where it raised one.

    None for a process that ended without a word. The function has to be importable, and decides itself whether to join
    the process group.
    """
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    started = []
    for number in range(processes):
        environment = {
            "RANK": str(number),
            "LOCAL_RANK": str(number),
            "WORLD_SIZE": str(processes),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
        }
        ours, theirs = CONTEXT.Pipe(duplex=False)
        process = CONTEXT.Process(target=_call, args=(theirs, environment, function, arguments))
        process.start()
        theirs.close()
        started.append((process, ours))
    results = []
    for process, pipe in started:
        if not pipe.poll(timeout):
            process.kill()
            raise TimeoutError(f"process {process.name} said nothing for {timeout:g} s")
        try:
            results.append(pipe.recv())
        except EOFError:
            results.append(None)
        process.join()
    return results


def _call(pipe: Connection, environment: dict[str, str], function: Callable[..., Any], arguments: Any) -> None:
    os.environ.update(environment)
    torch.set_num_threads(1)
    try:
        pipe.send(function(*arguments))
    except Exception as error:
        traceback.print_exc()
        pipe.send(error)
