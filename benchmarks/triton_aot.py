"""Compile every Triton kernel ahead of time and report registers, spills and shared memory. Needs no GPU.

    python benchmarks/triton_aot.py                     # all kernels and targets, as a table
    python benchmarks/triton_aot.py --quick --json -    # a small representative set, as JSON

The launches are those of the operators themselves, built from tensors without storage, so what is compiled here is
what a GPU would compile: the same tiles, the same constants, the same alignment. NVIDIA's figures come from the
assembler that Triton carries (``ptxas -v``), AMD's from the metadata of the assembly.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from a2mamba.ops.channel_norm import triton_impl as channel_norm
from a2mamba.ops.depthwise import triton_impl as depthwise
from a2mamba.ops.neighborhood import triton_launches as neighborhood
from a2mamba.ops.readout import triton_impl as readout
from a2mamba.ops.rotary import triton_impl as rotary
from a2mamba.ops.selective_scan import triton_impl as selective_scan
from a2mamba.ops.triton_launch import Launch

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "sm_100": GPUTarget("cuda", 100, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}

OPTIONS = ("num_warps", "num_stages", "enable_fp_fusion", "maxnreg")
"""Arguments of a launch that are the compiler's, not the kernel's."""

NAMES = {
    torch.float32: "fp32",
    torch.bfloat16: "bf16",
    torch.float16: "fp16",
    torch.int32: "i32",
}


@dataclass(frozen=True)
class Usage:
    """What one kernel takes on one target. Registers are 32-bit, a thread; memory in bytes."""

    kernel: str
    case: str
    target: str
    warps: int
    registers: int
    spills: int  # bytes stored and loaded (NVIDIA), registers (AMD)
    shared: int


@dataclass(frozen=True)
class Attention:
    """Neighborhood attention at one stage: a (batch, size, size) map with ``heads`` heads of ``width`` channels."""

    size: int
    heads: int
    width: int
    window: int
    dilation: int
    dtype: torch.dtype
    batch: int = 8

    def __str__(self) -> str:
        return f"{self.size}x{self.size} d={self.width} K={self.window} r={self.dilation} {NAMES[self.dtype]}"

    def launches(self) -> Iterator[Launch]:
        """Yield every launch of forward, second application and backward."""
        # As the layers cut them: q, k, v and half of the heads, from one projection in channels-last memory.
        shape = (self.batch, self.size, self.size, 3, 2 * self.heads, self.width)
        projection = torch.empty(shape, dtype=self.dtype, device="meta").permute(3, 0, 4, 1, 2, 5)
        q, k, v = projection[:, :, : self.heads]
        out = v.new_empty(self.batch, self.size, self.size, self.heads, self.width).permute(0, 3, 1, 2, 4)
        row = out.new_empty(out.shape[:4], dtype=torch.float32)
        bias = row.new_empty(self.heads, 2 * self.window - 1, 2 * self.window - 1)
        windows, dilations, scale = (self.window,) * 2, (self.dilation,) * 2, self.width**-0.5
        queries, keys = (
            neighborhood.map_tiling(q, v, windows, dilations, of_keys=of_keys) for of_keys in (False, True)
        )
        matrix, of_keys = (neighborhood.empty_matrix(q, tiling) for tiling in (queries, keys))
        yield neighborhood.matrix_launch(matrix, bias, windows, queries, of_keys=False)
        yield neighborhood.matrix_launch(of_keys, bias, windows, keys, of_keys=True)
        for again in (False, True):
            yield neighborhood.forward_launch(out, row, q, k, v, matrix, scale, queries, again=again)
        yield neighborhood.backward_q_launch(out, row, out, out, row, q, k, v, matrix, scale, queries)
        yield neighborhood.backward_kv_launch((out, out), row, out, row, q, k, v, of_keys, scale, keys)
        yield from neighborhood.bias_launches(bias, row, out, row, q, k, v, matrix, windows, scale, queries)


@dataclass(frozen=True)
class Scan:
    """The selective scan of (batch, channels, length), channels or tokens innermost."""

    batch: int
    channels: int
    length: int
    dtype: torch.dtype
    channels_last: bool = True

    def __str__(self) -> str:
        layout = "BLC" if self.channels_last else "BCL"
        return f"{layout} {self.batch}x{self.channels}x{self.length} {NAMES[self.dtype]}"

    def launches(self) -> Iterator[selective_scan.Launch]:
        """Yield every launch of forward and backward."""
        shape = (self.batch, self.length, self.channels)
        u = torch.empty(shape, dtype=self.dtype, device="meta").transpose(1, 2)
        if not self.channels_last:
            u = u.contiguous()
        states = torch.empty_like(u, dtype=torch.float32)
        a = u.new_empty(self.channels, dtype=torch.float32)
        arguments = (u, u, a, u.new_empty(self.batch, 1, self.length), a, True)
        yield from selective_scan.forward_launches(states, *arguments)
        yield from selective_scan.backward_launches(u, u, states, states, *arguments)


@dataclass(frozen=True)
class Maps:
    """What else is done to the maps of one stage: (batch, heads * width, size, size)."""

    batch: int
    size: int
    heads: int
    width: int
    dtype: torch.dtype

    def __str__(self) -> str:
        return f"maps {self.batch}x{self.size}x{self.size} {self.heads}x{self.width} {NAMES[self.dtype]}"

    def launches(self) -> Iterator[Launch]:
        """Yield every launch: norms, rotations, convolutions, readout."""
        channels = self.heads * self.width
        wide = torch.empty((self.batch, self.size, self.size, 3 * channels), dtype=self.dtype, device="meta")
        wide = wide.permute(0, 3, 1, 2)
        x, pair = wide[:, :channels], wide[:, : 2 * channels]
        out = channel_norm.empty_map(x, self.dtype)
        exact = channel_norm.empty_map(x, torch.float32)
        vector = exact.new_empty(channels)
        rows = exact.new_empty(self.batch * self.size**2)
        yield channel_norm.forward_launch(out, rows, rows, exact, vector, vector, 1e-6, keep=False)
        yield channel_norm.forward_launch(exact, rows, rows, out, vector, vector, 1e-6, keep=True)
        yield channel_norm.backward_launch(exact, out, exact, vector, rows, rows)
        table = exact.new_empty(self.size, self.size, self.width // 2, 2)
        yield rotary.forward_launch(channel_norm.empty_map(pair, self.dtype), pair, table)
        yield depthwise.forward_launch(exact, exact, vector.new_empty(9, channels), vector, residual=True)
        for silu in (False, True):
            yield depthwise.forward_launch(out, x, vector.new_empty(25, channels), vector, residual=False, silu=silu)
        half = channel_norm.empty_map(x[:, : channels // 2], self.dtype)
        position = out.new_empty(self.batch, self.size, self.size, 8)[..., 0]
        mix = vector.new_empty(self.heads, self.heads), vector.new_empty(self.heads)
        yield readout.read_out_launch(exact, half, half, *mix, position, out, vector)
        affine = vector, vector
        for gate_norm in (None, affine + affine):
            yield readout.gated_norm_launch(exact, exact, out, out, gate_norm, affine, affine, 1e-5, 1e-6)


def map_cases() -> list[Maps]:
    """Return stages 1, 2 and 3 of tiny at 224, stage 3 of large and the widest stage of all."""
    cases = []
    for dtype in (torch.bfloat16, torch.float32):
        cases += [
            Maps(128, 56, 2, 24, dtype),
            Maps(128, 28, 4, 24, dtype),
            Maps(128, 14, 8, 32, dtype),
            Maps(128, 14, 16, 28, dtype),
            Maps(128, 7, 24, 28, dtype),
        ]
    return cases


def scan_cases() -> list[Scan]:
    """Return lengths and channels of stages 1 to 3 at 224 and 1024."""
    bf16, fp32 = torch.bfloat16, torch.float32
    return [
        Scan(128, 48, 3136, bf16),  # tiny, stage 1, in chunks
        Scan(8, 48, 65536, bf16),  # at 1024
        Scan(128, 448, 196, bf16),  # large, stage 3: one program a sequence
        Scan(8, 48, 65536, fp32),
        Scan(128, 448, 196, fp32),
        Scan(8, 48, 65536, bf16, channels_last=False),
    ]


def attention_cases() -> list[Attention]:
    """Return the shipped head widths and windows of stages 1 to 3, and the widest heads that the kernels take."""
    bf16, fp32 = torch.bfloat16, torch.float32
    cases = []
    for dtype in (bf16, fp32):
        cases += [
            Attention(56, 1, 16, 11, 1, dtype),  # nano, stage 1
            Attention(56, 1, 24, 11, 1, dtype),  # tiny, stage 1
            Attention(56, 1, 24, 11, 5, dtype),
            Attention(256, 1, 24, 11, 11, dtype),  # at 1024
            Attention(28, 2, 32, 9, 1, dtype),  # small, stage 2
            Attention(28, 2, 32, 9, 3, dtype),
            Attention(14, 4, 32, 7, 1, dtype),  # tiny, stage 3
            Attention(14, 4, 32, 7, 2, dtype),
            Attention(14, 8, 28, 7, 2, dtype),  # large, stage 3
            Attention(56, 2, 64, 13, 1, dtype),
        ]
    return cases


def compile_launch(launch: Launch, case: Attention | Scan | Maps, name: str) -> Usage:
    """Compile one launch for the target of this name and read what it takes."""
    kernel, _, arguments = launch
    target = TARGETS[name]
    arguments = dict(arguments)
    options = {key: arguments.pop(key) for key in OPTIONS if key in arguments}
    if target.backend == "hip":
        # What the launch itself chooses under a ROCm build of PyTorch.
        options["num_stages"] = 1
        options.pop("maxnreg", None)
        if "PRECISION" in arguments:
            arguments["PRECISION"] = "ieee"
    signature, constants, attributes = specialise(kernel, arguments)
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=attributes)
    compiled = triton.compile(source, target=target, options=options)
    if target.backend == "cuda":
        registers, spills = read_ptx(compiled.asm["ptx"])
    else:
        registers, spills = read_amdgcn(compiled.asm["amdgcn"])
    label = kernel.__name__.removesuffix("_kernel")
    for flag in ("AGAIN", "OF_KEYS", "AGGREGATE", "REVERSE", "KEEP", "RESIDUAL", "SILU", "GATE_NORM"):
        label += f" {flag.lower()}" if arguments.get(flag) else ""
    return Usage(label, str(case), name, options["num_warps"], registers, spills, compiled.metadata.shared)


def specialise(kernel: Any, arguments: dict[str, Any]) -> tuple[dict[str, str], dict[str, Any], dict[Any, Any]]:
    """Return signature, constants and alignment as Triton's own launcher would derive them from the arguments."""
    signature: dict[str, str] = {}
    constants: dict[str, Any] = {}
    attributes: dict[Any, Any] = {}
    for index, parameter in enumerate(kernel.params):
        value = arguments[parameter.name]
        if parameter.is_constexpr or (isinstance(value, int) and value == 1 and not parameter.do_not_specialize):
            signature[parameter.name], constants[parameter.name] = "constexpr", value
            continue
        aligned: Any = False
        if isinstance(value, Tensor):
            signature[parameter.name] = "*" + NAMES[value.dtype]
            aligned = value.storage_offset() * value.element_size() % 16 == 0
        elif isinstance(value, int):
            signature[parameter.name] = "i32" if abs(value) < 2**31 else "i64"
            aligned = value % 16 == 0 and not parameter.do_not_specialize
        else:
            signature[parameter.name] = "fp32"
        if aligned:
            attributes[(index,)] = [["tt.divisibility", 16]]
    return signature, constants, attributes


def read_ptx(ptx: str) -> tuple[int, int]:
    """Assemble PTX as Triton does and return (registers, bytes spilled) as the assembler reports them."""
    arch = re.search(r"\.target (\w+)", ptx)
    assert arch is not None
    # Triton carries an older and a newer assembler; which one a target takes has changed between its versions.
    for assembler in sorted((Path(triton.__file__).parent / "backends" / "nvidia" / "bin").glob("ptxas*")):
        with tempfile.TemporaryDirectory() as scratch:
            path = Path(scratch) / "kernel.ptx"
            path.write_text(ptx)
            command = [str(assembler), "-v", "--regAllocOptLevel=2", f"--gpu-name={arch[1]}", str(path)]
            done = subprocess.run([*command, "-o", f"{path}.cubin"], capture_output=True, text=True, check=False)
        registers = re.search(r"Used (\d+) registers", done.stderr)
        if registers is not None:
            return int(registers[1]), sum(int(size) for size in re.findall(r"(\d+) bytes spill", done.stderr))
    raise RuntimeError(f"no assembler of Triton takes this PTX: {done.stderr}")


def read_amdgcn(assembly: str) -> tuple[int, int]:
    """Return (vector registers, spilled registers) from the metadata of AMD assembly."""

    def field(name: str) -> int:
        return max(int(value) for value in re.findall(rf"\.{name}:\s+(\d+)", assembly))

    return field("vgpr_count"), field("vgpr_spill_count")


def report(cases: list[Any], targets: list[str]) -> Iterator[Usage]:
    """Compile every launch of every case for every target."""
    for case in cases:
        for launch in case.launches():
            for target in targets:
                yield compile_launch(launch, case, target)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", action="append", choices=sorted(TARGETS), help="one target; all when not given")
    parser.add_argument("--quick", action="store_true", help="a small representative set")
    parser.add_argument("--json", metavar="FILE", help="write JSON to FILE, or to standard output for -")
    parser.add_argument("--only", default="", help="only cases whose description contains this")
    arguments = parser.parse_args()

    cases: list[Any] = [*attention_cases(), *scan_cases(), *map_cases()]
    if arguments.quick:
        cases = [attention_cases()[1], scan_cases()[1], map_cases()[0]]
    cases = [case for case in cases if arguments.only in str(case)]
    rows = []
    header = f"{'kernel':<34}{'case':<34}{'target':<8}{'warps':>6}{'registers':>10}{'spills':>8}{'shared':>8}"
    quiet = arguments.json == "-"
    if not quiet:
        print(header)
    for usage in report(cases, arguments.target or list(TARGETS)):
        rows.append(asdict(usage))
        if not quiet:
            print("{kernel:<34}{case:<34}{target:<8}{warps:>6}{registers:>10}{spills:>8}{shared:>8}".format(**rows[-1]))
    if arguments.json:
        text = json.dumps({"torch": torch.__version__, "triton": triton.__version__, "kernels": rows}, indent=2)
        if quiet:
            sys.stdout.write(text + "\n")
        else:
            Path(arguments.json).write_text(text + "\n")
    spilling = [row for row in rows if row["spills"]]
    if spilling:
        sys.exit(f"{len(spilling)} of {len(rows)} kernels spill registers")


if __name__ == "__main__":
    main()
