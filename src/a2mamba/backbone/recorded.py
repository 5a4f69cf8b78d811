"""A forward pass on a CPU as a list of calls: what PyTorch and the kernels do, without the Python that decides on it.

Of a2mamba_nano's time for one image, a quarter goes into modules, checks and choices, which are always the same.
A recording looks on for one pass (`recorder.py`). It keeps the operations whose results depend on the images, with
their arguments; what depends on the weights alone (tables, casts) is kept as it came out. Memory is asked for anew at
every repetition and given back after its last use, as in the pass itself.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from operator import is_
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

from a2mamba.backbone.recorder import CHANGES_ITSELF, Geometry, Launch, Memory, Operation, Recorder, View
from a2mamba.ops import numba_threads, recording
from a2mamba.ops.dispatch import not_plain

Step = Callable[[list[Any]], None]
"""Computes values from values, in the places of one list."""

_Source = tuple[int, int, Geometry | None]
"""Which leaf, of which value, and with which sizes, strides and offset, if not its own."""

_TOLERANCE = 1e-3
"""Largest relative error of a repetition, by norms: it is zero where libraries compute the same twice."""


class _State:
    """What a model keeps, its parameters and buffers, as it is now."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self._tensors = tensors
        # Tensors of inference mode count no changes.
        self._counting = [tensor for tensor in tensors if not tensor.is_inference()]
        self._known = self._now()

    @property
    def changed(self) -> bool:
        """Whether one was changed in place since, or lies elsewhere."""
        return self._known != self._now()

    def _now(self) -> tuple[list[int], list[int]]:
        return [each.data_ptr() for each in self._tensors], [each._version for each in self._counting]


class _Values:
    """Where in a list a repetition keeps what varies: of a block, the tensor of each dtype that was there first."""

    def __init__(self) -> None:
        self.count = 0
        self._of: dict[Memory, dict[torch.dtype, tuple[int, View]]] = {}

    def __contains__(self, view: View) -> bool:
        return view.dtype in self._of.get(view.memory, {})

    def add(self, view: View) -> int:
        """Return the place for a tensor."""
        index = self.count
        self.count += 1
        self._of.setdefault(view.memory, {})[view.dtype] = index, view
        return index

    def indices(self, memory: Memory) -> list[int]:
        """Return the places of all tensors of a block."""
        return [index for index, _ in self._of.get(memory, {}).values()]

    def address(self, memory: Memory, offset: int) -> tuple[int, int]:
        """Return a place, and the bytes from the beginning of its tensor to ``offset`` in its block."""
        index, view = next(iter(self._of[memory].values()))
        return index, offset - view.geometry[2] * view.dtype.itemsize

    def sort_out(self, leaves: Sequence[Any]) -> tuple[list[Any], list[_Source]]:
        """Return leaves as they are at every repetition, None for those that vary; and where these come from."""
        fixed: list[Any] = []
        sources: list[_Source] = []
        for leaf in leaves:
            if isinstance(leaf, View) and leaf.memory.varies:
                index, first = self._of[leaf.memory][leaf.dtype]
                sources.append((len(fixed), index, None if leaf.geometry == first.geometry else leaf.geometry))
                fixed.append(None)
            else:
                fixed.append(leaf.tensor if isinstance(leaf, View) else leaf)
        return fixed, sources


class Recorded:
    """A forward pass, ready to be repeated for other images of the same shape, strides and dtype.

    Args:
        recorder: that looked on.
        images: that it looked on for, see :func:`_placed`.
        result: of the pass.
        state: of the model.

    Raises:
        ValueError: if the result has parts that are neither tensors nor plain values.
    """

    def __init__(self, recorder: Recorder, images: Tensor, result: Any, state: _State) -> None:
        leaves, self._structure = tree_flatten(result)
        for leaf in leaves:
            if not isinstance(leaf, (Tensor, bool, int, float, str, type(None))):
                raise ValueError(
                    f"this model cannot be recorded: it returns a {type(leaf).__name__}; tensors, and tuples, lists "
                    "and dicts of them can be repeated"
                )
        calls = [call for call in recorder.calls if call.needed]
        last = {memory: call for call in calls for memory in call.memories()}
        # Kernels know no more of these than their addresses.
        self._held = [view.tensor for memory in last for view in memory.views]
        values = _Values()
        values.add(recorder.view(images))
        outputs = [recorder.view(leaf) if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        wanted = {recorder.images, *(each.memory for each in outputs if isinstance(each, View))}
        self._steps: list[tuple[Step, list[int]]] = []
        for call in calls:
            step = _repeated(call, values) if isinstance(call, Operation) else _launched(call, values)
            ending = {memory for memory in call.memories() if last[memory] is call} - wanted
            self._steps.append((step, [index for memory in ending for index in values.indices(memory)]))
        self._fixed, self._sources = values.sort_out(outputs)
        self._count = values.count
        self._state = state

    @property
    def stale(self) -> bool:
        """Whether a parameter or buffer has changed in place since the recording, or lies elsewhere."""
        return self._state.changed

    def __call__(self, images: Tensor) -> Any:
        """Return what the model makes of ``images``."""
        values: list[Any] = [None] * self._count
        values[0] = _placed(images)
        with torch.no_grad(), torch.autocast("cpu", enabled=False):
            for step, ending in self._steps:
                step(values)
                for index in ending:
                    values[index] = None
            # What does not depend on the images belongs to the recording.
            leaves = [leaf.clone() if isinstance(leaf, Tensor) else leaf for leaf in self._fixed]
            _fill(leaves, self._sources, values)
        return tree_unflatten(leaves, self._structure)


def _repeated(call: Operation, values_of: _Values) -> Step:
    """Return the step of one of PyTorch's operations."""
    function, structure = call.function, call.structure
    fixed, sources = values_of.sort_out(call.arguments)
    stored = [
        (position, values_of.add(view))
        for position, view in enumerate(call.results)
        if isinstance(view, View) and view.memory.varies and view not in values_of
    ]
    positional, named = tree_unflatten(fixed, structure)
    if all(map(is_, positional, fixed)) and all(index < len(positional) for index, _, _ in sources):
        # All that varies stands in the list of arguments itself, not in lists inside or behind names.
        fixed, compute = list(positional), partial(function, **named) if named else function
    else:

        def compute(*leaves: Any) -> Any:
            arguments, others = tree_unflatten(leaves, structure)
            return function(*arguments, **others)

    def step(values: list[Any]) -> None:
        leaves = fixed.copy()
        _fill(leaves, sources, values)
        result = compute(*leaves)
        if stored:
            results = (result,) if isinstance(result, Tensor) else tree_leaves(result)
            for position, index in stored:
                values[index] = results[position]

    return step


def _launched(call: Launch, values_of: _Values) -> Step:
    """Return the step of a kernel."""
    kernel, workers = call.kernel, call.workers
    numbers = array("q", (0, 0, 0, *call.numbers))
    addresses = [(3 + at, *values_of.address(memory, offset)) for at, memory, offset in call.addresses if memory.varies]

    def step(values: list[Any]) -> None:
        arguments = numbers[:]
        for position, index, offset in addresses:
            arguments[position] = values[index].data_ptr() + offset
        numba_threads.run_again(kernel, workers, arguments)

    return step


def _fill(leaves: list[Any], sources: Iterable[_Source], values: Sequence[Any]) -> None:
    for position, index, geometry in sources:
        value = values[index]
        leaves[position] = value if geometry is None else torch.as_strided(value, *geometry)


def record(model: nn.Module, images: Tensor, half: torch.dtype | None) -> Recorded:
    """Return a forward pass of ``model`` in evaluation mode, recorded for the shape of ``images``.

    Args:
        half: dtype of autocast, or None.

    Raises:
        ValueError: if the model cannot be recorded: it reads a value that depends on the images, changes what it keeps,
            computes outside of PyTorch's operations and our kernels, has or returns other than plain tensors.
    """
    images = _placed(images)
    tensors = [*model.parameters(), *model.buffers()]
    objection = not_plain(images, *tensors)
    if objection is not None:
        raise ValueError(f"this model cannot be recorded: {objection}")
    # Casts that the caller's autocast keeps may have been made in another mode: here it keeps none.
    autocast = torch.autocast("cpu", dtype=half, enabled=half is not None, cache_enabled=False)
    with torch.inference_mode(), autocast:
        state = _State(tensors)
        model(images)  # what is done once only, compilations and tables, is done
        if state.changed:
            raise ValueError(CHANGES_ITSELF)
        recorder = Recorder(images, tensors)
        with recorder, recording.told(recorder):
            result = model(images)
        recorded = Recorded(recorder, images, result, state)
        others = torch.empty_like(images)
        others.copy_(torch.rand(images.shape, generator=torch.Generator().manual_seed(0)))
        for found, expected in zip(tree_leaves(recorded(others)), tree_leaves(model(others)), strict=True):
            if not _agrees(found, expected):
                raise ValueError(
                    "this model cannot be recorded: a repetition computes something else than the model. It may draw "
                    "random numbers, or compute outside of PyTorch's operations; call the model itself"
                )
    return recorded


def _placed(images: Tensor) -> Tensor:
    """Return images at the beginning of their memory and without gaps; strides alone say how those lie."""
    dense = images.is_contiguous() or (images.ndim == 4 and images.is_contiguous(memory_format=torch.channels_last))
    return images if dense and not images.storage_offset() else images.clone()


def _agrees(found: Any, expected: Any) -> bool:
    if not isinstance(expected, Tensor):
        return bool(found == expected)
    if not expected.is_floating_point():
        return torch.equal(found, expected)
    finite = expected.isfinite()
    error = (found - expected)[finite].norm()
    return torch.equal(finite, found.isfinite()) and bool(error <= _TOLERANCE * expected[finite].norm())
