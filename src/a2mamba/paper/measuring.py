"""Speed and memory of a table's networks on this device, timm's beside ours in one run."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from a2mamba.analysis.runners import Setting
from a2mamba.analysis.throughput import compare, operators_disagree
from a2mamba.paper.report import Speed
from a2mamba.paper.subjects import subject
from a2mamba.paper.tables import Table

CPU_BATCH = 2
"""Images in a batch on CPUs, where the published batches would take minutes each."""


def measure(
    table: Table,
    *,
    device: str,
    sizes: Sequence[int] | None = None,
    batch: int | None = None,
    rounds: int = 3,
    progress: Callable[[str], None] = lambda _: None,
) -> dict[tuple[str, int], Speed]:
    """Time every network of a table that this package or timm has, and take its peak memory.

    At each image size all networks are timed in turn, so that a device that slows down slows all of them down.

    Args:
        table: one that has columns of speed.
        device: "cpu", "cuda", ...
        sizes: image sides, of those that the table has; all of them by default.
        batch: images in a batch; by default the published one on a GPU and `CPU_BATCH` on CPUs.
        rounds: times that each network is timed.
        progress: called with a line about what is being done.

    Raises:
        ValueError: if the table has no speeds, or not at these sizes; or an operator disagrees with its reference here.
    """
    columns = {column.size[0]: column for column in table.columns if column.kind == "speed" and column.size}
    if not columns:
        raise ValueError(f"Table {table.number} has no speeds; Tables VIII to XIII have")
    unknown = [size for size in sizes or () if size not in columns]
    if unknown:
        raise ValueError(f"Table {table.number} has speeds at {', '.join(map(str, columns))}, not at {unknown[0]}")
    wrong = operators_disagree(device)
    if wrong is not None:
        raise ValueError(f"no speed is reported: {wrong}")
    subjects = (subject(table.number, row.name) for row in table.rows)
    names = list(dict.fromkeys(found.model for found in subjects if found is not None))
    found: dict[tuple[str, int], Speed] = {}
    for size in sizes or columns:
        published = columns[size].batch
        standard = CPU_BATCH if torch.device(device).type == "cpu" else published
        setting = Setting(size, batch or standard or CPU_BATCH, device=device)
        for row in compare(names, setting, rounds=rounds, memory=True, progress=progress):
            found[row.model, size] = Speed(row.images_per_second, row.batch, row.peak_memory_mb)
    return found
