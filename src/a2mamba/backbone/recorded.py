"""A forward pass on a CPU as a list of calls: what PyTorch and the kernels do, without the Python that decides on it.

Of a2mamba_nano's time for one image, a quarter goes into modules, checks and choices, which are always the same.
A recording looks on for one pass. It keeps the operations whose results depend on the images, with their arguments;
what depends on the weights alone (tables, casts) is kept as it came out. Memory is asked for anew at every repetition
and given back after its last use, as in the pass itself.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

from a2mamba.ops import numba_threads, recording
from a2mamba.ops.dispatch import not_plain

Step = Callable[[list[Any]], None]
"""Computes values from values, in the places of one list."""

_Geometry = tuple[Sequence[int], Sequence[int], int]
"""Sizes, strides and offset of a tensor in its memory."""

_FIRST_ADDRESS = 2**32
"""No system has its heap below; sizes and strides of maps, in bytes, are less."""

_CHANGES_ITSELF = "this model cannot be recorded: it changes what it keeps, as networks do in training mode"

_TOLERANCE = 1e-3
"""Largest relative error of a repetition, by norms: it is zero where libraries compute the same twice."""


@dataclass(eq=False)
class _Memory:
    """A block that tensors lie in."""

    address: int
    size: int
    alive: StorageWeakRef
    maker: _Operation | None = None  # None: it was there before, or no operation made it
    blank: bool = False  # it was made empty, for others to write
    varies: bool = False  # what it holds depends on the images
    held: Tensor | None = None  # keeps it, as long as it does not vary
    writers: list[_Operation | _Launch] = field(default_factory=list)


@dataclass(frozen=True)
class _View:
    """A tensor."""

    memory: _Memory
    dtype: torch.dtype
    geometry: _Geometry
    tensor: Tensor | None  # itself, where its memory did not vary when it was met

    @property
    def place(self) -> tuple[_Memory, torch.dtype]:
        """What a repetition keeps one value for."""
        return self.memory, self.dtype


@dataclass(eq=False)
class _Operation:
    """A call of one of PyTorch's operations: leaves of its arguments and results, views in place of tensors."""

    function: Callable[..., Any]
    arguments: list[Any]
    structure: Any
    results: list[Any]
    needed: bool

    def memories(self) -> set[_Memory]:
        return {each.memory for each in (*self.arguments, *self.results) if isinstance(each, _View)}


@dataclass(eq=False)
class _Launch:
    """A call of a kernel of ours; of its numbers some are addresses: (index, memory, offset)."""

    kernel: int
    workers: int
    numbers: list[int]
    addresses: list[tuple[int, _Memory, int]]
    needed: bool

    def memories(self) -> set[_Memory]:
        return {memory for _, memory, _ in self.addresses}


class _Recorder(TorchDispatchMode):
    """Looks on while a model computes; afterwards :attr:`calls` say what it did.

    Args:
        images: that the model is given.
        state: what the model keeps, parameters and buffers.
    """

    def __init__(self, images: Tensor, state: Iterable[Tensor]) -> None:
        super().__init__()
        self.calls: list[_Operation | _Launch] = []
        self._memories: dict[int, _Memory] = {}
        self._inside = False
        self.images = self._memory_of(images)
        self.images.varies = True
        for tensor in state:
            self.hold(tensor)

    def _memory_of(self, tensor: Tensor) -> _Memory:
        storage = tensor.untyped_storage()
        # The weak reference keeps its name from being given to another.
        if storage._cdata not in self._memories:
            self._memories[storage._cdata] = _Memory(storage.data_ptr(), storage.nbytes(), StorageWeakRef(storage))
        return self._memories[storage._cdata]

    def hold(self, tensor: Tensor) -> None:
        self.view(tensor)

    def view(self, tensor: Tensor) -> _View:
        """Return what is noted of a tensor; its memory is held as long as it does not vary."""
        memory = self._memory_of(tensor)
        if not memory.varies and memory.held is None:
            memory.held = tensor
        geometry = tuple(tensor.shape), tensor.stride(), int(tensor.storage_offset())
        return _View(memory, tensor.dtype, geometry, None if memory.varies else tensor)

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        leaves, structure = tree_flatten((args, kwargs), is_leaf=_without_tensors)
        arguments = [self.view(leaf) if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        read = [each for each in arguments if isinstance(each, _View)]
        varies = any(each.memory.varies for each in read)
        self._inside = True  # a kernel that the operation launches is part of it
        try:
            result = func(*args, **kwargs)
        finally:
            self._inside = False
        made = tree_leaves(result)
        if varies and (_depends_on_values(func, read) or not all(_is_output(each) for each in made)):
            raise ValueError(
                f"this model cannot be recorded: it reads a value that depends on the images ({func}), and may compute "
                "otherwise for others; call the model itself"
            )
        written = {self._memory_of(each) for each in _written(func, args, kwargs)}
        operation = _Operation(func, arguments, structure, [], varies or any(memory.varies for memory in written))
        known = {each.memory for each in read}
        for memory in {self._memory_of(each) for each in made if isinstance(each, Tensor)} - known:
            memory.maker, memory.varies, memory.blank = operation, varies, func.overloadpacket in _EMPTY
        for memory in written:
            self._write(memory, operation, varies)
        operation.results = [self.view(each) if isinstance(each, Tensor) else each for each in made]
        new = {each.place for each in operation.results if isinstance(each, _View)} - {each.place for each in read}
        if new or written:  # otherwise it is a view, and said by the arguments of others
            self.calls.append(operation)
        return result

    def launch(self, kernel: int, workers: int, numbers: Sequence[int]) -> None:
        if self._inside:
            return
        blocks = [each for each in self._memories.values() if each.size and not each.alive.expired()]
        blocks.sort(key=lambda memory: memory.address)
        starts = [memory.address for memory in blocks]
        addresses = []
        for index, number in enumerate(numbers):
            if number < _FIRST_ADDRESS:
                continue
            memory = blocks[bisect_right(starts, number) - 1]
            if not memory.address <= number < memory.address + memory.size:
                raise RuntimeError("a kernel was given the address of memory that its recorder was not told of")
            addresses.append((index, memory, number - memory.address))
        varies = any(memory.varies for _, memory, _ in addresses)
        call = _Launch(kernel, workers, list(numbers), addresses, varies)
        for memory in call.memories():
            if memory.blank:
                self._write(memory, call, varies)
        self.calls.append(call)

    def _write(self, memory: _Memory, call: _Operation | _Launch, varies: bool) -> None:
        """Take note that ``call`` writes to a block, which varies from then on where the call does."""
        if memory.maker is None and varies and memory is not self.images:
            raise ValueError(_CHANGES_ITSELF)
        memory.writers.append(call)
        if varies and not memory.varies:
            memory.varies, memory.held = True, None
            # What was written before is then written anew at every repetition.
            for earlier in (memory.maker, *memory.writers):
                if earlier is not None:
                    earlier.needed = True


_EMPTY = {
    torch.ops.aten.empty,
    torch.ops.aten.empty_like,
    torch.ops.aten.empty_strided,
    torch.ops.aten.new_empty,
    torch.ops.aten.new_empty_strided,
}


def _without_tensors(argument: Any) -> bool:
    """Whether an argument is a list, of sizes perhaps, that is taken as a whole."""
    return isinstance(argument, list) and not any(isinstance(each, Tensor) for each in argument)


def _is_output(made: Any) -> bool:
    return made is None or isinstance(made, Tensor)


def _depends_on_values(function: Any, read: Sequence[_View]) -> bool:
    """Whether how many numbers an operation returns depends on the numbers that it is given."""
    if function is torch.ops.aten.index.Tensor:
        return any(view.dtype in (torch.bool, torch.uint8) for view in read[1:])
    return torch.Tag.dynamic_output_shape in function.tags


def _written(function: Any, arguments: Sequence[Any], named: dict[str, Any]) -> Iterable[Tensor]:
    """Yield what an operation writes to, among its arguments."""
    for place, argument in enumerate(function._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            value = arguments[place] if place < len(arguments) else named.get(argument.name)
            yield from (each for each in tree_leaves(value) if isinstance(each, Tensor))


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


class Recorded:
    """A forward pass, ready to be repeated for other images of the same shape, strides and dtype.

    Args:
        recorder: that looked on.
        images: that it looked on for, see :func:`_placed`.
        result: of the pass.
        state: parameters and buffers of the model.

    Raises:
        ValueError: if the result has parts that are neither tensors nor plain values.
    """

    def __init__(self, recorder: _Recorder, images: Tensor, result: Any, state: Sequence[Tensor]) -> None:
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
        self._held = [memory.held for memory in last if not memory.varies]
        # Of every block that varies, the tensor that was there first: where it stands among the values, and what it is.
        self._values: dict[tuple[_Memory, torch.dtype], tuple[int, _View]] = {}
        self._add(recorder.view(images))
        outputs = [recorder.view(leaf) if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        wanted = {recorder.images, *(each.memory for each in outputs if isinstance(each, _View))}
        self._steps: list[tuple[Step, list[int]]] = []
        for call in calls:
            step = self._repeated(call) if isinstance(call, _Operation) else self._launched(call)
            ending = {memory for memory in call.memories() if last[memory] is call} - wanted
            self._steps.append((step, [index for (memory, _), (index, _) in self._values.items() if memory in ending]))
        self._fixed, self._sources = self._sorted_out(outputs)
        self._count = len(self._values)
        del self._values
        self._state = _State(state)

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

    def _add(self, view: _View) -> int:
        index = len(self._values)
        self._values[view.place] = index, view
        return index

    def _sorted_out(self, leaves: Sequence[Any]) -> tuple[list[Any], list[_Source]]:
        """Return leaves as they are at every repetition, None for those that vary; and where these come from."""
        fixed: list[Any] = []
        sources: list[_Source] = []
        for leaf in leaves:
            if isinstance(leaf, _View) and leaf.memory.varies:
                index, first = self._values[leaf.place]
                sources.append((len(fixed), index, None if leaf.geometry == first.geometry else leaf.geometry))
                fixed.append(None)
            else:
                fixed.append(leaf.tensor if isinstance(leaf, _View) else leaf)
        return fixed, sources

    def _repeated(self, call: _Operation) -> Step:
        """Return the step of one of PyTorch's operations."""
        function, structure = call.function, call.structure
        fixed, sources = self._sorted_out(call.arguments)
        stored = [
            (position, self._add(view))
            for position, view in enumerate(call.results)
            if isinstance(view, _View) and view.memory.varies and view.place not in self._values
        ]
        positional, named = tree_unflatten(fixed, structure)
        if len(positional) + len(named) == len(fixed) and all(index < len(positional) for index, _, _ in sources):
            # All that varies stands in the list of arguments itself.
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

    def _launched(self, call: _Launch) -> Step:
        """Return the step of a kernel."""
        kernel, workers = call.kernel, call.workers
        numbers = array("q", (0, 0, 0, *call.numbers))
        first = {memory: (index, view) for (memory, _), (index, view) in reversed(self._values.items())}
        addresses = [
            (3 + position, first[memory][0], offset - first[memory][1].geometry[2] * first[memory][1].dtype.itemsize)
            for position, memory, offset in call.addresses
            if memory.varies
        ]

        def step(values: list[Any]) -> None:
            arguments = numbers[:]
            for position, index, offset in addresses:
                arguments[position] = values[index].data_ptr() + offset
            numba_threads.run_again(kernel, workers, arguments)

        return step


_Source = tuple[int, int, _Geometry | None]
"""Which leaf, of which value, and with which sizes, strides and offset, if not its own."""


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
    state = [*model.parameters(), *model.buffers()]
    objection = not_plain(images, *state)
    if objection is not None:
        raise ValueError(f"this model cannot be recorded: {objection}")
    # Casts that the caller's autocast keeps may have been made in another mode: here it keeps none.
    autocast = torch.autocast("cpu", dtype=half, enabled=half is not None, cache_enabled=False)
    with torch.inference_mode(), autocast:
        before = _State(state)
        model(images)  # what is done once only, compilations and tables, is done
        if before.changed:
            raise ValueError(_CHANGES_ITSELF)
        recorder = _Recorder(images, state)
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
    if not expected.is_floating_point() or not expected.isfinite().all():
        return torch.equal(found.isfinite(), expected.isfinite())
    return bool((found - expected).norm() <= _TOLERANCE * expected.norm())
