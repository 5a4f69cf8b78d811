"""The Triton kernels on a GPU, against the references; skipped where there is none, and run by `make bench-gpu`."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch

from a2mamba.backbone import cuda_graph, fuse_for_inference
from a2mamba.ops import (
    channel_norm,
    depthwise_conv,
    gated_norm,
    neighborhood,
    neighborhood_attention,
    read_out,
    rotate,
    selective_scan,
    selective_scan_state,
)
from a2mamba.ops.channel_norm import cases as channel_norm_cases
from a2mamba.ops.depthwise import cases as depthwise_cases
from a2mamba.ops.readout import cases as readout_cases
from a2mamba.ops.rotary import cases as rotary_cases
from a2mamba.predictor import Predictor
from a2mamba.tasks import ClassificationPrediction, PredictionOptions, SegmentationPrediction, task_of_network
from support import norm_error, reference_images, reference_model, relative_error

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

DTYPES = [(torch.float32, 1e-3), (torch.bfloat16, 3e-2)]


FLOOR = 1e-1
"""A softmax over one key does not depend on its score: those gradients are zero, and what is found is rounding, which a
bias collects from the whole map."""


@pytest.mark.parametrize("case", [case for case in neighborhood.CASES if case.batch], ids=str)
@pytest.mark.parametrize(("dtype", "tolerance"), DTYPES)
def test_neighborhood_attention(case: neighborhood.Case, dtype: torch.dtype, tolerance: float) -> None:
    ours = [x for x in case.inputs(dtype, "cuda") if x is not None]
    exact = [x.double().cpu() for x in ours]
    results = []
    for tensors, backend in ((ours, "triton"), (exact, "reference")):
        leaves = [x.detach().requires_grad_() for x in tensors]
        out = neighborhood_attention(*leaves, kernel_size=case.kernel_size, dilation=case.dilation, backend=backend)
        results.append([out.detach(), *torch.autograd.grad(out.float().square().sum(), leaves)])
    for found, expected in zip(*results, strict=True):
        assert norm_error(found.cpu(), expected, floor=FLOOR) < tolerance


@pytest.mark.parametrize("case", [case for case in selective_scan.CASES if case.batch], ids=str)
@pytest.mark.parametrize(("dtype", "tolerance"), DTYPES)
def test_selective_scan(case: selective_scan.Case, dtype: torch.dtype, tolerance: float) -> None:
    ours = [x for x in case.inputs(dtype, "cuda") if x is not None]
    exact = [x.double().cpu() for x in ours]
    results = []
    for tensors, backend in ((ours, "triton"), (exact, "reference")):
        leaves = [x.detach().requires_grad_() for x in tensors]
        out = selective_scan_state(*leaves, delta_softplus=case.softplus, backend=backend)
        results.append([out.detach(), *torch.autograd.grad(out.float().square().sum(), leaves)])
    for found, expected in zip(*results, strict=True):
        assert norm_error(found.cpu(), expected, floor=FLOOR) < tolerance


@pytest.mark.parametrize("name", ["a2mamba_nano", "segman_encoder_tiny"])
@pytest.mark.parametrize("fused", [False, True])
def test_logits(name: str, fused: bool) -> None:
    model = reference_model(name)
    images = reference_images(1, 224, 224)
    on_gpu = copy.deepcopy(fuse_for_inference(model) if fused else model).cuda()
    with torch.inference_mode():
        assert relative_error(on_gpu(images.cuda()).cpu(), model(images)) < 1e-2


@pytest.mark.parametrize("name", ["a2mamba_nano", "segman_encoder_tiny"])
@pytest.mark.parametrize("autocast", [False, True])
def test_cuda_graph(name: str, autocast: bool) -> None:
    model = copy.deepcopy(reference_model(name)).cuda()
    graphed = cuda_graph(model)
    batches = [reference_images(1, *size).cuda() for size in ((224, 224), (96, 160))]
    # The first of a shape is recorded, the second is replayed with other images.
    for images in (*batches, *(batch.flip(-1) for batch in batches)):
        with torch.inference_mode():
            with torch.autocast("cuda", dtype=torch.bfloat16, enabled=autocast):
                found = graphed(images)
            with torch.autocast("cuda", dtype=torch.bfloat16, enabled=autocast):
                expected = model(images)
        assert relative_error(found, expected) < (1e-2 if autocast else 1e-3)


@pytest.mark.parametrize("compile", [False, True])
@pytest.mark.parametrize("name", ["a2mamba_nano", "segman_v2_nano"])
def test_predictor_with_graphs(name: str, compile: bool) -> None:
    task, classes = task_of_network(name), [str(i) for i in range(5)]
    run = task.run_of_network(name)
    torch.manual_seed(0)
    model = task.build_model(run, classes).eval().cuda()
    generator = np.random.default_rng(0)
    images = [generator.integers(0, 256, (512, 512, 3), dtype=np.uint8) for _ in range(2)]
    plain, fast = (
        Predictor(
            model,
            run,
            classes,
            device="cuda",
            report="random weights",
            precision="float32",
            options=PredictionOptions(),
            compile=fast and compile,
            cuda_graph=fast,
        )
        for fast in (False, True)
    )
    # The first image of a size is recorded, the second is replayed.
    for image in images:
        found, expected = (predictor.predict(image)[0] for predictor in (fast, plain))
        if isinstance(found, SegmentationPrediction) and isinstance(expected, SegmentationPrediction):
            assert float((found.class_map != expected.class_map).float().mean()) < 1e-2
        else:
            assert isinstance(found, ClassificationPrediction)
            assert isinstance(expected, ClassificationPrediction)
            assert relative_error(found.probabilities, expected.probabilities) < 1e-2


@pytest.mark.parametrize("training", [False, True])
def test_compiled(training: bool) -> None:
    model = copy.deepcopy(reference_model("a2mamba_nano")).cuda()
    images = reference_images(1, 224, 224).cuda()
    results = []
    for call in (model, torch.compile(model, fullgraph=True)):
        with torch.set_grad_enabled(training), torch.autocast("cuda", dtype=torch.bfloat16):
            logits = call(images)
        gradients = torch.autograd.grad(logits.float().square().mean(), list(model.parameters())) if training else []
        results.append([logits, *gradients])
    largest = max(float(x.norm()) for x in results[0])
    for found, expected in zip(*results, strict=True):
        assert float((found - expected).norm()) < 0.1 * max(float(expected.norm()), 1e-2 * largest)


MAPS: list[Any] = [
    pytest.param(channel_norm, channel_norm_cases.CASES[1].inputs, id="channel_norm"),
    pytest.param(depthwise_conv, depthwise_cases.CASES[1].inputs, id="depthwise_conv"),
    pytest.param(rotate, rotary_cases.CASES[1].inputs, id="rotate"),
    pytest.param(read_out, readout_cases.CASES[3].read_out_inputs, id="read_out"),
    pytest.param(gated_norm, readout_cases.CASES[3].gated_norm_inputs, id="gated_norm"),
]


@pytest.mark.parametrize(("dtype", "tolerance"), DTYPES)
@pytest.mark.parametrize(("operator", "inputs"), MAPS)
def test_operators_on_maps(operator: Any, inputs: Any, dtype: torch.dtype, tolerance: float) -> None:
    # Without the dtype that the norm's cases end with, which is no argument by place.
    ours, exact = ([x for x in inputs(*where) if x is not None] for where in ((dtype, "cuda"), (torch.float64, "cpu")))
    with torch.no_grad():
        found = operator(*ours, backend="triton")
        assert relative_error(found.cpu(), operator(*exact)) < tolerance
