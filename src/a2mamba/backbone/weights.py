"""Between our parameter names and the layouts of released checkpoints: a pure, strict adapter both ways.

One table says how each of our tensors is called in a released file and which shape it has there. Reading applies the
table backwards. Released files hold two things that ours do not: the constant rotary frequencies, and in A2Mamba a
second copy of the position bias that both attention branches share. Both are checked on reading and written back.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from a2mamba.backbone.fusion import is_fused
from a2mamba.backbone.pyramid import Pyramid
from a2mamba.backbone.rules import CHANNEL, KERNEL, SAME, ReleasedNames, Reshape, Rule, by_rules
from a2mamba.layers import rope_frequencies

StateDict = dict[str, Tensor]


class CheckpointError(ValueError):
    """A checkpoint does not fit: one line that says what was found and what was expected."""


# Our name inside a block (a pattern for its beginning) -> the released name there, and the change of shape.
BLOCK_RULES: tuple[Rule, ...] = (
    (r"pos([12])\.", r"cpe\1.", SAME),
    (r"(?:scale|skip)([12])\.weight$", r"layer_scale\1.weight", CHANNEL),
    (r"(?:scale|skip)([12])\.bias$", r"layer_scale\1.bias", SAME),
    (r"mixer\.", "token_mixer.", SAME),
    (r"(?=norm[12]\.|mlp\.)", "", SAME),
)


@dataclass(frozen=True)
class Layout:
    """How a network's tensors are called in released files, and what else those files hold."""

    names: ReleasedNames
    constants: StateDict
    """Released name -> a constant of the architecture, which our networks do not store."""

    @classmethod
    def of_backbone(cls, model: Pyramid) -> Layout:
        """Return the layout of a backbone's files.

        Raises:
            CheckpointError: if the model was fused, so that its weights are not those of a file, or if its variant has
                no weight table.
        """
        if is_fused(model):
            raise CheckpointError("a fused model has no released layout; convert the model that it was made from")
        mixers = model.variant.released_mixer
        if mixers is None:
            raise CheckpointError("no weights of this backbone were released, so there is no layout of theirs")
        names = list(model.state_dict())
        if model.head is not None and "head.fc.weight" not in names:
            # A model without a classifier still has to know the names of one that it leaves out.
            names += ["head.fc.weight", "head.fc.bias"]
        return cls({name: _released(name, mixers + BLOCK_RULES) for name in names}, _rotary(model))

    def inside(self, ours: str, released: str) -> Layout:
        """Return the layout of a larger network that holds this one under these prefixes."""
        names = {
            ours + name: (tuple(released + target for target in targets), reshape)
            for name, (targets, reshape) in self.names.items()
        }
        return Layout(names, {released + name: value for name, value in self.constants.items()})

    def __or__(self, other: Layout) -> Layout:
        return Layout(self.names | other.names, self.constants | other.constants)


@runtime_checkable
class ReleasedNetwork(Protocol):
    """A network around a backbone that knows its own released layout."""

    def released_layout(self) -> Layout:
        """Return the layout; raises CheckpointError if there is none."""
        ...


def layout_of(model: nn.Module) -> Layout:
    """Return the released layout of a backbone, or of a network around one.

    Raises:
        CheckpointError: if nothing of that kind was released.
    """
    if isinstance(model, Pyramid):
        return Layout.of_backbone(model)
    if isinstance(model, ReleasedNetwork):
        return model.released_layout()
    raise CheckpointError(f"{type(model).__name__} has no released layout; expected a backbone of ours, or a SegMAN")


def _released(name: str, rules: tuple[Rule, ...]) -> tuple[tuple[str, ...], Reshape]:
    part, second, *rest = name.split(".")
    leaf = rest[-1]
    if part == "stem":
        first = 3 * (int(second[-1]) - 1)
        return (f"patch_embed.{first if second.startswith('conv') else first + 1}.{leaf}",), SAME
    if part == "head":
        place = {"conv": 0, "norm": 1, "fc": 4}[second]
        return (f"classifier.{place}.{leaf}",), KERNEL if (second, leaf) == ("fc", "weight") else SAME
    stage = int(second)
    if rest[0] == "downsample":
        return (f"layers.{2 * stage - 1}.{('conv', 'norm').index(rest[1])}.{leaf}",), SAME
    targets, reshape = by_rules(".".join(rest[2:]), rules)
    return tuple(f"layers.{2 * stage}.blocks.{rest[1]}.{target}" for target in targets), reshape


def _rotary(model: Pyramid) -> StateDict:
    """Return the constants that released files store: each frequency of a stage, twice in a row."""
    return {
        f"layers.{2 * i}.rope.angle": rope_frequencies(stage.head_dim).repeat_interleave(2)
        for i, stage in enumerate(model.stage_list())
    }


def to_released(model: nn.Module) -> StateDict:
    """Return a model's weights in the released layout; :func:`from_released` is the exact inverse.

    Args:
        model: an A2Mamba, a SegMAN encoder, or a SegMAN segmentation network.

    Returns:
        name -> tensor, detached, on the model's device, sharing memory with the model where the shape allows.

    Raises:
        CheckpointError: if nothing of the model's kind was released.
    """
    layout = layout_of(model)
    out: StateDict = {}
    for name, tensor in model.state_dict().items():
        names, reshape = layout.names[name]
        out |= dict.fromkeys(names, reshape.there(tensor))
    return out | layout.constants


def from_released(state: Mapping[str, Tensor], model: nn.Module) -> StateDict:
    """Return a released state dict in our names and shapes, for a model of the same architecture.

    Only names and axes change: a tensor of another size than the model's comes back in that size, and one that the
    model does not have keeps its released name. Rotary frequencies, being constants, may be absent.

    Raises:
        CheckpointError: if the two copies of a shared position bias differ or one is missing, or if rotary frequencies
            are not this model's.
    """
    layout = layout_of(model)
    rest = dict(state)
    for name, expected in layout.constants.items():
        found = rest.pop(name, None)
        if found is not None and (found.shape != expected.shape or not torch.allclose(found.cpu().float(), expected)):
            raise CheckpointError(f"{name}: rotary frequencies are not those of this model; another architecture?")
    out: StateDict = {}
    for name, (names, reshape) in layout.names.items():
        copies = {n: rest.pop(n) for n in names if n in rest}
        if not copies:
            continue
        first, *others = copies.values()
        if len(copies) != len(names) or any(not torch.equal(first, other) for other in others):
            raise CheckpointError(
                f"{' and '.join(names)} must both be there and be equal: the two branches share one position bias"
            )
        out[name] = reshape.back(first) if reshape.rank in (None, first.dim()) else first
    return out | rest
