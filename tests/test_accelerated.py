"""Predictors that compile their network or record it; graphs themselves: test_gpu.py, backbone/test_cpu_graph.py."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch._dynamo.testing import CompileCounter

import a2mamba
from a2mamba.backbone import cpu_graph
from a2mamba.backbone.graphed import GraphedModel
from a2mamba.predictor import Predictor
from a2mamba.tasks import (
    ClassificationPrediction,
    PredictionOptions,
    SegmentationPrediction,
    SourceImage,
    task_of_network,
)

NETWORKS = ("a2mamba_test", "segman_v2_test", "mask_rcnn_a2mamba_test")


def predictor(name: str, *, compile: bool = False, cpu_graph: bool = False) -> Predictor:
    """A network with random weights, the same at every call."""
    task, classes = task_of_network(name), ["cat", "dog", "bird"]
    run = task.run_of_network(name)
    return Predictor(
        task.build_model(run, classes).eval(),
        run,
        classes,
        device="cpu",
        report="random weights",
        precision="float32",
        options=PredictionOptions(min_score=0 if task.name == "detection" else None),
        compile=compile,
        cpu_graph=cpu_graph,
    )


def photos(*sizes: tuple[int, int]) -> list[np.ndarray]:
    """Noise of the given heights and widths."""
    generator = np.random.default_rng(0)
    return [generator.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]


@pytest.fixture
def counter(monkeypatch: pytest.MonkeyPatch) -> CompileCounter:
    """Counts what torch.compile is given, in place of the minutes of a compiler."""
    torch.compiler.reset()
    found = CompileCounter()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=found, fullgraph=True))
    return found


def test_a_classifier_is_compiled(counter: CompileCounter, tmp_path: Path) -> None:
    eager = predictor("a2mamba_test")
    torch.save(eager.model.state_dict(), tmp_path / "weights.pth")
    compiled = a2mamba.load(tmp_path / "weights.pth", name="a2mamba_test", device="cpu", compile=True)
    images = photos((64, 96), (96, 64))
    for order in (images, images[::-1]):
        for expected, found in zip(eager.predict(order), compiled.predict(order), strict=True):
            assert isinstance(found, ClassificationPrediction)
            assert isinstance(expected, ClassificationPrediction)
            torch.testing.assert_close(found.probabilities, expected.probabilities)
        assert counter.frame_count == 1


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_a_compiled_network_predicts_the_same(name: str, counter: CompileCounter) -> None:
    eager, compiled = predictor(name), predictor(name, compile=True)
    counts = []
    for image in photos((64, 96), (64, 96), (96, 64)):
        (expected,), (found,) = eager.predict(image), compiled.predict(image)
        for field in ("probabilities", "class_map", "boxes", "scores"):
            if hasattr(expected, field):
                torch.testing.assert_close(getattr(found, field), getattr(expected, field), rtol=1e-4, atol=1e-4)
        counts.append(counter.frame_count)
    assert counts[0] == counts[1] > 0, "an image of the same size is not compiled for again"


@pytest.mark.slow
def test_sizes_are_free_after_the_first_few(counter: CompileCounter) -> None:
    compiled = predictor("a2mamba_test", compile=True)
    counts = []
    for size in (2, 3, 4, 5):
        compiled.predict(photos(*[(64, 64)] * size), batch_size=size)
        counts.append(counter.frame_count)
    assert counts[0] < counts[1] == counts[2] == counts[3]


@pytest.mark.parametrize("name", NETWORKS)
def test_the_network_itself_is_not_compiled(name: str, counter: CompileCounter) -> None:
    compiled = predictor(name, compile=True)
    calls: list[object] = []
    compiled.model.register_forward_hook(lambda *_: calls.append(None))
    view = compiled.view(photos((64, 96))[0])
    with torch.inference_mode():
        compiled.model(view.batch if name != "mask_rcnn_a2mamba_test" else list(view.batch))
    assert calls
    assert counter.frame_count == 0


def test_cuda_graphs_need_an_nvidia_gpu(tmp_path: Path) -> None:
    torch.save(a2mamba.create_model("a2mamba_test", num_classes=3).state_dict(), tmp_path / "weights.pth")
    with pytest.raises(ValueError, match="cuda_graph=True is for NVIDIA GPUs, and the network is on cpu; leave it out"):
        a2mamba.load(tmp_path / "weights.pth", name="a2mamba_test", device="cpu", cuda_graph=True)


@pytest.mark.parametrize("name", ["a2mamba_test", "segman_v2_test"])
def test_graphs_on_a_cpu_predict_the_same(name: str) -> None:
    eager, graphed = predictor(name), predictor(name, cpu_graph=True)
    images = photos((64, 96), (96, 64), (64, 96))
    expected, found = (each.predict(images, batch_size=2).to_dict() for each in (eager, graphed))
    assert found == expected
    graphs = [module for module in graphed._network.modules() if isinstance(module, GraphedModel)]
    assert [len(module._graphs) for module in graphs] == [2]  # of two sizes, or of a whole batch and a rest


def test_graphs_on_a_cpu_are_for_cpus_and_alone() -> None:
    with pytest.raises(ValueError, match="compile=True makes cannot be recorded on a CPU"):
        predictor("a2mamba_test", compile=True, cpu_graph=True)
    with pytest.raises(ValueError, match="cpu_graph=True is for CPUs, and the network is on meta; leave it out"):
        Predictor(
            nn.Identity(),
            task_of_network("a2mamba_test").run_of_network("a2mamba_test"),
            ["cat"],
            device="meta",
            report="",
            precision="float32",
            options=PredictionOptions(),
            cpu_graph=True,
        )


def test_detectors_are_not_recorded() -> None:
    detector = predictor("mask_rcnn_a2mamba_test")
    task = task_of_network("mask_rcnn_a2mamba_test")
    with pytest.raises(ValueError, match=r"for classifiers and segmenters.*use compile=True"):
        task.accelerated(detector.model, compile=False, graph=cpu_graph)


def test_what_is_recorded_of_a_segmenter() -> None:
    """In place of the graph is the module that would be recorded."""
    recorded: list[nn.Module] = []

    def graph(model: nn.Module) -> nn.Module:
        assert not model.training
        recorded.append(model)
        return model

    eager = predictor("segman_v2_test")
    image = SourceImage("noise", 0, lambda: Image.fromarray(photos((64, 96))[0]))
    task = task_of_network("segman_v2_test")
    maps = []
    for network in (eager.model, task.accelerated(eager.model, compile=False, graph=graph)):
        (found,) = task.predict(eager.run, network, [image], eager.classes, options=eager.options, device="cpu")
        assert isinstance(found, SegmentationPrediction)
        maps.append(found.class_map)
    assert len(recorded) == 1
    assert torch.equal(*maps)


def test_exported_files_have_their_own_runtime(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"network\.onnx is an exported file.*by its own runtime"):
        a2mamba.load(tmp_path / "network.onnx", compile=True)
    with pytest.raises(ValueError, match=r"network\.onnx is an exported file.*by its own runtime"):
        a2mamba.load(tmp_path / "network.onnx", cuda_graph=True)
    with pytest.raises(ValueError, match=r"network\.onnx is an exported file.*by its own runtime"):
        a2mamba.load(tmp_path / "network.onnx", cpu_graph=True)
