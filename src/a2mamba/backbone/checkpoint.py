"""Loading weights from files of every kind that users have, strictly, and without running code from them."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError
from timm.models import adapt_input_conv
from timm.models._features import FeatureGetterNet
from torch import Tensor, nn

from a2mamba.backbone.pyramid import STAGES, Pyramid
from a2mamba.backbone.weights import CheckpointError, StateDict, from_released
from a2mamba.files.torch_file import PLAIN_DATA, check_sha256, read_torch_file
from a2mamba.layers import resize_pair_bias

log = logging.getLogger(__name__)

CONTAINERS = (
    ("state_dict_ema", "EMA weights"),
    ("model_ema", "EMA weights"),
    ("ema", "EMA weights"),
    ("state_dict", "weights"),
    ("model", "weights"),
)
"""Where training checkpoints keep weights, best first: timm's and the authors' names, then ours."""

WRAPPERS = ("module.", "_orig_mod.", "model.")
"""Prefixes that DistributedDataParallel, torch.compile and feature extractors put before names."""

PIECES = ("patch_embed.", "layers.", "classifier.", "stem.", "stages.", "head.")


@runtime_checkable
class Network(Protocol):
    """A segmentation or detection network."""

    @property
    def backbone(self) -> nn.Module:
        """The feature extractor."""
        ...


@dataclass(frozen=True)
class LoadReport:
    """What :func:`load_checkpoint` did."""

    source: str
    """Path of the file, or "mapping"."""
    content: str
    """Which weights were taken from it, and in which layout they were."""
    loaded: int
    """Number of tensors loaded."""
    total: int
    """Number of tensors of the model, constants aside."""
    notes: tuple[str, ...] = ()
    """What was adapted, replaced or left out, one sentence each."""
    verified: bool = True
    """Whether a checksum was compared: that of every record of a zip file, or the SHA-256 that was asked for."""

    def __str__(self) -> str:
        lines = [f"loaded {self.loaded} of {self.total} tensors from {self.source} ({self.content})"]
        unverified = [] if self.verified else ["not verified: the file carries no checksum"]
        return "; ".join([*lines, *self.notes, *unverified])


def load_checkpoint(
    model: nn.Module,
    source: str | os.PathLike[str] | Mapping[str, Any],
    *,
    sha256: str | None = None,
    name: str | None = None,
) -> LoadReport:
    """Load weights into a backbone or a network around one, all of them or none.

    Accepts files of the released layout and of ours, plain or inside a training checkpoint (EMA weights are
    preferred), with DDP or torch.compile prefixes; for a backbone, also the ``backbone.`` part of a segmentation or
    detection checkpoint. Three things are adapted for a backbone, and reported: a classifier of another number of
    classes is left as the model has it, the first convolution follows the model's in_chans, and the bias of the global
    attention follows the model's img_size. Of a whole network only that last one is. Nothing in the file is executed.

    Args:
        model: an A2Mamba, a SegMAN encoder, a feature extractor made from one, or a network with one of those as its
            ``backbone``; for such a network nothing may be missing, a classifier of another size included.
        source: path of a .safetensors or of a torch file, or a mapping of that content (NumPy arrays will do).
        sha256: the published digest of a file, to be compared with its own.
        name: of the source in messages; the path, or "a mapping", if None.

    Returns:
        A report; ``print`` it.

    Raises:
        CheckpointError: if the file is missing, damaged or of another kind, or if anything else is missing, left over
            or of another shape; the message lists names, and the model is unchanged.
    """
    if name is None:
        name = "a mapping" if isinstance(source, Mapping) else os.fspath(source)
    content = source if isinstance(source, Mapping) else _read(Path(source), sha256)
    report = load_content(model, content, name)
    for note in report.notes:
        log.warning("%s: %s", name, note)
    return replace(report, verified=not isinstance(content, FileContent) or content.verified)


def load_content(model: nn.Module, content: Mapping[str, Any], name: str) -> LoadReport:
    """Do what :func:`load_checkpoint` does with a checkpoint's content, without a word in the log."""
    if isinstance(model, Network) and not isinstance(model, FeatureGetterNet):
        return _load_network(model, content, name)
    target = _backbone(model)
    state, description, partial = _weights(content, name)
    state, layout = _in_our_names(state, target, name, mark="patch_embed.")
    own = target.state_dict()
    notes = _drop_absent(state, target) + _adapt(state, own)
    kept = _keep_own_head(state, own, notes, partial=partial)
    return _load(target, state, kept, notes, name, f"{description}, {layout}")


def _load_network(model: nn.Module, content: Mapping[str, Any], name: str) -> LoadReport:
    """Load the weights of a whole segmentation or detection network."""
    state, description = _contained(content)
    if not any(key.startswith("backbone.") for key in state):
        found = _some(list(state)) if state else "no tensors"
        raise CheckpointError(
            f"{name}: no weights of a whole {type(model).__name__}, found {found}; "
            "weights of a backbone are loaded into model.backbone"
        )
    state, layout = _in_our_names(state, model, name, mark="decode_head.")
    notes = _resize_global_biases(state, model.state_dict())
    return _load(model, state, set(), notes, name, f"{description}, {layout}")


def _in_our_names(state: StateDict, model: nn.Module, name: str, *, mark: str) -> tuple[StateDict, str]:
    """Return the weights under our names, and the layout in which they were: the released one has the mark."""
    if not any(key.startswith(mark) for key in state):
        return state, "native layout"
    try:
        return from_released(state, model), "released layout"
    except CheckpointError as error:
        raise CheckpointError(f"{name} does not fit this model; {error}") from error


def _load(target: nn.Module, state: StateDict, kept: set[str], notes: list[str], name: str, content: str) -> LoadReport:
    """Load the weights if nothing is missing (those that are ``kept`` aside), left over or of another shape."""
    own = target.state_dict()
    constants = {key for key in own if key.endswith("num_batches_tracked")}
    # Frozen norms, such as transformers' RT-DETR makes of ours, have no counters.
    state = {key: x for key, x in state.items() if key in own or not key.endswith("num_batches_tracked")}
    missing = [key for key in own if key not in state and key not in constants | kept]
    unexpected = [key for key in state if key not in own]
    both = [(key, state[key], own[key]) for key in own if key in state]
    misshaped = [f"{key} {tuple(x.shape)} instead of {tuple(y.shape)}" for key, x, y in both if x.shape != y.shape]
    unusable = [f"{key} {x.dtype}, {x.layout}" for key, x, y in both if not _is_usable(x, y)]
    problems = [
        f"{len(names)} {what}: {_some(names)}"
        for what, names in (
            ("missing", missing),
            ("left over", unexpected),
            ("of another shape", misshaped),
            ("of another kind of tensor", unusable),
        )
        if names
    ]
    if problems:
        raise CheckpointError(f"{name} does not fit this model; {'; '.join(problems)}")
    target.load_state_dict(state, strict=False)
    return LoadReport(
        source=name,
        content=content,
        loaded=len(state.keys() - constants),
        total=len(own.keys() - constants),
        notes=tuple(notes),
    )


def _is_usable(found: Tensor, own: Tensor) -> bool:
    """Whether a tensor of a file is plain, in main memory, and of floating-point numbers where the model's is."""
    plain = found.layout is torch.strided and not found.is_quantized and found.device.type != "meta"
    return plain and found.is_floating_point() == own.is_floating_point() and not found.is_complex()


class FileContent(dict[str, Any]):
    """The content of a file of weights, and whether a checksum of it was compared."""

    verified = True


def read_file(path: Path) -> FileContent:
    """Return the content of a .safetensors or torch file, on the CPU, without running code from it.

    Raises:
        CheckpointError: if the file is missing, damaged, or holds more than tensors and plain data.
    """
    return _read(path, None)


def _read(path: Path, sha256: str | None) -> FileContent:
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    try:
        if sha256 is not None:
            check_sha256(path, sha256)
        if path.suffix == ".safetensors":
            content, verified = safetensors.torch.load_file(path), False
        else:
            content, verified = read_torch_file(path, allowed=PLAIN_DATA)
    except (OSError, ValueError, SafetensorError) as error:
        text = str(error).split("\n", 1)[0]
        raise CheckpointError(text if text.startswith(str(path)) else f"{path} is damaged: {text}") from error
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path}: expected a mapping of tensors, found {type(content).__name__}")
    found = FileContent(content)
    found.verified = verified or sha256 is not None
    return found


def weights_of(content: Mapping[str, Any]) -> StateDict:
    """Return the weights in a checkpoint's content, by their names there without wrappers' prefixes; EMA preferred."""
    return _contained(content)[0]


def checkpoint_filter(state: Mapping[str, Any], model: Pyramid) -> StateDict:
    """Return a checkpoint's weights in our layout: the filter that timm calls before it loads pretrained weights.

    The classifier and the first convolution are left as they are: timm adapts those itself.
    """
    weights, _, _ = _weights(state, "pretrained weights")
    if any(key.startswith("patch_embed.") for key in weights):
        weights = from_released(weights, model)
    own = model.state_dict()
    _resize_global_biases(weights, own)
    # timm loads strictly; what a released file may leave out are counters.
    return {k: v for k, v in own.items() if k.endswith("num_batches_tracked")} | weights


def _backbone(model: nn.Module) -> Pyramid:
    if isinstance(model, FeatureGetterNet):
        model = model.model
    if not isinstance(model, Pyramid):
        raise CheckpointError(f"expected an A2Mamba or SegMAN encoder, got {type(model).__name__}")
    return model


def _weights(content: Mapping[str, Any], name: str) -> tuple[StateDict, str, bool]:
    """Return the weights of a checkpoint without prefixes, what they are, and whether they are a backbone's alone."""
    state, description = _contained(content)
    inner = {key.removeprefix("backbone."): value for key, value in state.items() if key.startswith("backbone.")}
    if inner:
        state, description = _strip(inner), f"backbone {description}"
    if not any(key.startswith(PIECES) for key in state):
        found = _some(list(state)) if state else "no tensors"
        raise CheckpointError(f"{name}: no weights of an A2Mamba or SegMAN backbone; found {found}")
    return state, description, bool(inner)


def _contained(content: Mapping[str, Any]) -> tuple[StateDict, str]:
    """Return the best weights inside a checkpoint, without wrappers' prefixes, and what they are."""
    description = "weights"
    for key, what in CONTAINERS:
        if isinstance(content.get(key), Mapping):
            content, description = content[key], what
            break
    kinds = (Tensor, np.ndarray)
    return _strip(
        {key: torch.as_tensor(value) for key, value in content.items() if isinstance(value, kinds)}
    ), description


def _strip(state: StateDict) -> StateDict:
    for _ in WRAPPERS:
        for prefix in WRAPPERS:
            if state and all(key.startswith(prefix) for key in state):
                state = {key.removeprefix(prefix): value for key, value in state.items()}
    return state


def _keep_own_head(state: StateDict, own: StateDict, notes: list[str], *, partial: bool) -> set[str]:
    """Return the parts of the head that keep the model's values; drop in place what they replace."""
    if partial and not any(key.startswith("head.") for key in state):
        notes.append("the checkpoint has no head; the model's own was kept as it is")
        return {key for key in own if key.startswith("head.")}
    weight, fresh = state.get("head.fc.weight"), own.get("head.fc.weight")
    if weight is None or weight.dim() != 2 or (fresh is not None and fresh.shape[0] == weight.shape[0]):
        return set()
    classifier = {"head.fc.weight", "head.fc.bias"}
    for key in classifier:
        state.pop(key, None)
    have = "no classifier; it was left out" if fresh is None else f"{fresh.shape[0]}; the model's own was kept as it is"
    notes.append(f"the checkpoint's classifier has {weight.shape[0]} classes, the model {have}")
    return classifier & own.keys()


def _adapt(state: StateDict, own: StateDict) -> list[str]:
    """Adapt the first convolution and the global biases in place; return what was done."""
    notes = []
    conv, expected = state.get("stem.conv1.weight"), own["stem.conv1.weight"]
    if conv is not None and conv.dim() == 4 and conv.shape != expected.shape and conv.shape[1] == 3:
        adapted = adapt_input_conv(expected.shape[1], conv)
        if adapted.shape == expected.shape:
            state["stem.conv1.weight"] = adapted
            notes.append(f"the first convolution was adapted from 3 to {expected.shape[1]} input channels")
    return notes + _resize_global_biases(state, own)


def _resize_global_biases(state: StateDict, own: StateDict) -> list[str]:
    """Resize the global attention's biases in place to the model's img_size; return what was done."""
    sizes = set()
    for key, fresh in own.items():
        bias = state.get(key)
        if not key.endswith("global_attention.bias") or bias is None or bias.dim() != 3:
            continue
        if bias.shape != fresh.shape and bias.shape[0] == fresh.shape[0]:
            sizes.add((bias.shape[-1], fresh.shape[-1]))
            state[key] = resize_pair_bias(bias.float(), fresh.shape[-1]).to(bias.dtype)
    return [f"global attention biases were resized from {old} to {new} tokens" for old, new in sorted(sizes)]


def _drop_absent(state: StateDict, target: Pyramid) -> list[str]:
    """Drop in place what belongs to parts that a pruned model does not have; return what was done."""
    absent: list[str] = [] if target.head is not None else ["head.", "classifier."]
    for i in range(len(target.stages), STAGES):
        absent += [f"stages.{i}.", f"layers.{2 * i}.", f"layers.{2 * i - 1}."]
    dropped = [key for key in state if key.startswith(tuple(absent))] if absent else []
    for key in dropped:
        del state[key]
    return (
        [f"{len(dropped)} tensors of parts that this feature extractor does not have were left out"] if dropped else []
    )


def _some(names: list[str], most: int = 6) -> str:
    """Return the first names, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
