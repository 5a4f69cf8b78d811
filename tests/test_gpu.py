"""The Triton kernels on a GPU, against the references; skipped where there is none, and run by `make bench-gpu`."""

from __future__ import annotations

import copy

import pytest
import torch

from a2mamba.backbone import fuse_for_inference
from a2mamba.ops import neighborhood, neighborhood_attention, selective_scan, selective_scan_state
from support import reference_images, reference_model, relative_error

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

DTYPES = [(torch.float32, 1e-3), (torch.bfloat16, 3e-2)]


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
        assert relative_error(found.cpu(), expected) < tolerance


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
        assert relative_error(found.cpu(), expected) < tolerance


@pytest.mark.parametrize("name", ["a2mamba_nano", "segman_encoder_tiny"])
@pytest.mark.parametrize("fused", [False, True])
def test_logits(name: str, fused: bool) -> None:
    model = reference_model(name)
    images = reference_images(1, 224, 224)
    on_gpu = copy.deepcopy(fuse_for_inference(model) if fused else model).cuda()
    with torch.inference_mode():
        assert relative_error(on_gpu(images.cuda()).cpu(), model(images)) < 1e-2


def test_cuda_graph() -> None:
    model = copy.deepcopy(reference_model("a2mamba_nano")).cuda()
    images = reference_images(1, 224, 224).cuda()
    with torch.inference_mode():
        expected = model(images)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            captured = model(images)
        graph.replay()
        assert relative_error(captured, expected) < 1e-3
