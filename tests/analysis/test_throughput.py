"""Measuring: what is reported, and what is refused. How fast anything is, is not tested."""

from __future__ import annotations

import json
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch

from a2mamba.analysis import environment, runners, throughput
from a2mamba.analysis.runners import Runner, Setting
from a2mamba.analysis.throughput import Row, compare, operators_disagree
from a2mamba.analysis.worker import Worker
from a2mamba.backbone import is_fused
from a2mamba.cli import bench
from a2mamba.cli.main import main
from support import need_onnx

SMALL = ["test_vit", "a2mamba_test"]
QUICK = ["--sizes", "64", "--batch", "1", "--device", "cpu", "--together"]


@pytest.mark.parametrize("mode", ["inference", "training"])
def test_rows_follow_the_names(mode: runners.Mode) -> None:
    rows = compare(SMALL, Setting(size=64, batch=2, mode=mode), rounds=3, warm_up=1, together=True)
    assert [row.model for row in rows] == SMALL
    for row in rows:
        low, high = row.milliseconds_quartiles
        assert 0 < low <= row.milliseconds <= high
        assert row.images_per_second == pytest.approx(2e3 / row.milliseconds)
        assert (row.rounds, row.size, row.batch, row.mode, row.peak_memory_mb) == (3, 64, 2, mode, None)
    assert rows[1].parameters == 238_008


def test_rounds_are_interleaved(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[int] = []

    def note(runner: Runner) -> float:
        order.append(runner.parameters)
        return 1.0

    monkeypatch.setattr(Runner, "time", note)
    rows = compare(SMALL, Setting(size=64, batch=1), rounds=3, together=True)
    assert order == [row.parameters for row in rows] * 3
    assert all(row.milliseconds == 1000 for row in rows)


def test_on_a_cpu_each_model_has_a_process_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rows are those of one process; the processes have its threads, and end."""
    monkeypatch.setattr(throughput, "Runner", None)  # nothing is run here
    started: list[Worker] = []

    class Watched(Worker):
        def __init__(self, name: str, setting: Setting, task: str = "time", warm_up: int = 1) -> None:
            super().__init__(name, setting, task, warm_up)
            started.append(self)

    monkeypatch.setattr(throughput, "Worker", Watched)
    (row,) = compare(["a2mamba_test"], Setting(size=64, batch=1), rounds=2)
    assert (row.model, row.rounds, row.parameters, row.fused) == ("a2mamba_test", 2, 238_008, False)
    assert row.milliseconds > 0
    assert [worker.process.returncode for worker in started] == [0]
    assert started[0].about["threads"] == torch.get_num_threads()


def test_what_is_wrong_in_the_other_process_is_said_in_this() -> None:
    with pytest.raises(ValueError, match="unknown model 'roadmap': neither ours nor timm's"):
        compare(["roadmap"], Setting(size=64, batch=1))
    worker = Worker("a2mamba_test", Setting(size=64, batch=1))
    worker.process.kill()
    with pytest.raises(ValueError, match="the process that measures it ended: exit status -9"):
        worker.time()
    worker.close()


@pytest.mark.parametrize(
    ("runtime", "names"),
    [
        ("onnxruntime", ["a2mamba_test"]),
        pytest.param("onnxruntime", ["test_vit", "repvit_m0_9"], marks=pytest.mark.slow),
        pytest.param("openvino", ["a2mamba_test"], marks=pytest.mark.slow),
    ],
)
def test_other_runtimes_have_rows_of_their_own(
    runtime: str, names: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What is timed is an exported file, which computes what the network does, and is removed afterwards."""
    need_onnx()
    pytest.importorskip(runtime)
    outputs: dict[str, torch.Tensor] = {}

    def note(runner: Runner) -> float:
        outputs[runner.setting.runtime] = runner.step()
        return 1.0

    monkeypatch.setattr(Runner, "time", note)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for name in names:
        setting = Setting(size=64 if name in SMALL else 224, batch=1)
        rows = compare([name], setting, runtimes=("pytorch", runtime), rounds=1, together=True)
        assert [(row.model, row.runtime, row.fused) for row in rows] == [
            (name, "pytorch", False),
            (name, runtime, name == "a2mamba_test"),
        ]
        torch.testing.assert_close(outputs[runtime], outputs["pytorch"], rtol=1e-3, atol=1e-3)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_graphs_have_rows_of_their_own(dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    outputs: list[torch.Tensor] = []

    def note(runner: Runner) -> float:
        outputs.append(runner.step())
        return 1.0

    monkeypatch.setattr(Runner, "time", note)
    setting = Setting(size=64, batch=1, dtype=dtype, fused=True)
    rows = compare(["a2mamba_test"], setting, runtimes=("pytorch", "graph"), rounds=1, together=True)
    assert [(row.runtime, row.fused) for row in rows] == [("pytorch", True), ("graph", True)]
    assert torch.equal(*outputs)


@pytest.mark.parametrize("other", [{"mode": "training"}, {"compile": True}])
def test_graphs_repeat_inference(other: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="a graph repeats inference, and on a CPU not what"):
        Runner("a2mamba_test", replace(Setting(size=64, batch=1, runtime="graph"), **other))


def test_runtimes_do_what_they_can() -> None:
    need_onnx()
    for other in ({"dtype": "bfloat16"}, {"mode": "training"}, {"compile": True}):
        with pytest.raises(ValueError, match="onnxruntime is measured for inference in float32 on a CPU"):
            Runner("a2mamba_test", replace(Setting(size=64, batch=1, runtime="onnxruntime"), **other))
    with pytest.raises(ValueError, match="unknown runtime 'tensorrt'; there are pytorch, graph, onnxruntime, openvino"):
        Runner("a2mamba_test", Setting(size=64, batch=1, runtime="tensorrt"))
    assert list(bench.RUNTIMES) == list(runners.RUNTIMES)


@pytest.mark.skipif(sys.platform != "linux", reason="Linux tells a process its peak memory")
def test_memory_grows_with_the_image() -> None:
    small, large = (throughput.peak_memory("a2mamba_test", Setting(size=size, batch=1)) for size in (128, 768))
    assert large > small + 20


def test_output_that_is_not_finite_has_no_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Runner, "step", lambda runner: torch.tensor([float("nan")]))
    with pytest.raises(ValueError, match="a2mamba_test: the output is not finite at 64 in float32; no speed"):
        compare(["a2mamba_test"], Setting(size=64, batch=1), together=True)


def test_wrong_operators_have_no_speed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from a2mamba.ops.neighborhood import numba_impl, torch_impl

    assert operators_disagree("cpu") is None
    right = torch_impl.forward
    for implementation in (numba_impl, torch_impl):  # whichever is chosen
        monkeypatch.setattr(implementation, "forward", lambda *arguments: right(*arguments) * 1.01)
    assert main(["bench", "--models", "a2mamba_test", "--sizes", "64", "--batch", "1", "--device", "cpu"]) == 2
    printed = capsys.readouterr()
    assert "no speed is reported: neighborhood_attention disagrees with its reference" in printed.err
    assert printed.out == ""


def test_bench_writes_what_it_prints(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["bench", *QUICK, "--models", *SMALL, "--rounds", "2", "--json"]
    assert main([*words, "--out", str(tmp_path / "speed.json")]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((tmp_path / "speed.json").read_text())
    assert [row["model"] for row in printed["rows"]] == SMALL
    assert {"images_per_second", "peak_memory_mb", "dtype", "device"} <= printed["rows"][0].keys()
    assert printed["environment"]["torch"] == torch.__version__
    assert printed["environment"]["instruction_sets"] == " ".join(environment.instruction_sets())
    assert main([*words, "--out", str(tmp_path / "speed.csv")]) == 0
    assert (tmp_path / "speed.csv").read_text().splitlines()[2].startswith("a2mamba_test,64,1,inference")


ABOUT = {
    "x86": (
        "processor\t: 0\nvendor_id\t: AuthenticAMD\ncpu family\t: 25\nmodel\t\t: 17\nmodel name\t: AMD EPYC\n"
        "flags\t\t: fpu avx2 fma avx512f avx512_bf16 sse4a\nbogomips\t: 5192\n\nprocessor\t: 1\nmodel name\t: other\n",
        "AMD EPYC (family 25, model 17)",
        ["avx2", "fma", "avx512f", "avx512_bf16"],
    ),
    "aarch64": (
        "processor\t: 0\nFeatures\t: fp asimd i8mm bf16 sve\nCPU architecture: 8\n",
        None,
        ["asimd", "bf16", "i8mm", "sve"],
    ),
}


@pytest.mark.parametrize("kind", ABOUT)
def test_the_processor_is_named_with_its_instruction_sets(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    text, name, sets = ABOUT[kind]
    monkeypatch.setattr(environment.Path, "read_text", lambda self: text)
    assert name is None or environment.processor() == name
    assert environment.instruction_sets() == sets

    def missing(self: Path) -> str:
        raise FileNotFoundError

    monkeypatch.setattr(environment.Path, "read_text", missing)
    assert environment.processor()
    assert environment.instruction_sets() == []


def test_peers_are_measured_too(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(bench, "PEERS", ("test_resnet", "a model that timm has not", "a2mamba_test"))
    words = ["bench", *QUICK, "--models", "a2mamba_test", "--peers", "--rounds", "1"]
    assert main([*words, "--json"]) == 0
    assert [row["model"] for row in json.loads(capsys.readouterr().out)["rows"]] == ["a2mamba_test", "test_resnet"]
    monkeypatch.undo()
    assert [name for name in bench.PEERS if timm.is_model(name)] == list(bench.PEERS)


def test_fused_models_are_ours_alone(capsys: pytest.CaptureFixture[str]) -> None:
    setting = Setting(size=64, batch=1, fused=True)
    runner = Runner("a2mamba_test", setting)
    assert is_fused(runner.model)
    plain = Runner("a2mamba_test", Setting(size=64, batch=1))
    torch.testing.assert_close(runner.step(), plain.step(), rtol=1e-4, atol=1e-4)
    words = ["bench", *QUICK, "--models", *SMALL, "--rounds", "1", "--fused"]
    assert main([*words, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [(row["fused"], row["parameters"]) for row in rows][1] == (True, 238_008), "those of the model as it is made"
    assert not rows[0]["fused"]
    assert main(words) == 0
    assert "a2mamba_test (fused)" in capsys.readouterr().out
    assert main([*words, "--mode", "training"]) == 2
    assert "--fused is for inference" in capsys.readouterr().err
    with pytest.raises(ValueError, match="cannot be trained"):
        Runner("a2mamba_test", replace(setting, mode="training"))


def test_plot(tmp_path: Path) -> None:
    from a2mamba.analysis.plots import accuracy_against_speed

    def row(model: str, speed: float) -> Row:
        return Row(
            model,
            224,
            8,
            "inference",
            "float32",
            "cpu",
            False,
            False,
            "pytorch",
            speed,
            8e3 / speed,
            (1, 2),
            3,
            None,
            1,
        )

    accuracy_against_speed([row("convnext_tiny", 16), row("a2mamba_tiny", 17)], tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ValueError, match="published accuracy"):
        accuracy_against_speed([row("resnet18", 16)], tmp_path / "other.png")
