"""Looking on while a model computes on a CPU: which operations and kernels it calls, and with what memory.

Tensors are told apart by the memory that they lie in. What of it depends on the images is found out on the way: it is
what is read from them, and what is computed from such.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_leaves

Geometry = tuple[Sequence[int], Sequence[int], int]
"""Sizes, strides and offset of a tensor in its memory."""

CHANGES_ITSELF = "this model cannot be recorded: it changes what it keeps, as networks do in training mode"

_FIRST_ADDRESS = 2**32
"""No system has its heap below; sizes and strides of maps, in bytes, are less."""


@dataclass(eq=False)
class Memory:
    """A block that tensors lie in."""

    address: int
    size: int
    alive: StorageWeakRef
    maker: Operation | None = None  # None: it was there before, or no operation made it
    blank: bool = False  # it was made empty, for others to write
    varies: bool = False  # what it holds depends on the images
    views: list[View] = field(default_factory=list)  # that keep it, as long as it does not vary
    writers: list[Operation | Launch] = field(default_factory=list)


@dataclass(eq=False)
class View:
    """A tensor."""

    memory: Memory
    dtype: torch.dtype
    geometry: Geometry
    tensor: Tensor | None = None  # itself, as long as its memory does not vary

    @property
    def place(self) -> tuple[Memory, torch.dtype]:
        """What a repetition keeps one value for."""
        return self.memory, self.dtype


@dataclass(eq=False)
class Operation:
    """A call of one of PyTorch's operations: leaves of its arguments and results, views in place of tensors."""

    function: Callable[..., Any]
    arguments: list[Any]
    structure: Any
    results: list[Any]
    needed: bool

    def memories(self) -> set[Memory]:
        """Return what it reads and writes."""
        return {each.memory for each in (*self.arguments, *self.results) if isinstance(each, View)}


@dataclass(eq=False)
class Launch:
    """A call of a kernel of ours; of its numbers some are addresses: (index, memory, offset)."""

    kernel: int
    workers: int
    numbers: list[int]
    addresses: list[tuple[int, Memory, int]]
    needed: bool

    def memories(self) -> set[Memory]:
        """Return what it reads and writes."""
        return {memory for _, memory, _ in self.addresses}


class Recorder(TorchDispatchMode):
    """Looks on while a model computes; afterwards :attr:`calls` say what it did.

    Args:
        images: that the model is given.
        state: what the model keeps, parameters and buffers.
    """

    def __init__(self, images: Tensor, state: Iterable[Tensor]) -> None:
        super().__init__()
        self.calls: list[Operation | Launch] = []
        self.scratch: Tensor | None = None
        self._memories: dict[int, Memory] = {}
        self._inside = False
        self.images = self._memory_of(images)
        self.images.varies = True
        for tensor in state:
            self.hold(tensor)

    def _memory_of(self, tensor: Tensor) -> Memory:
        storage = tensor.untyped_storage()
        # The weak reference keeps its name from being given to another.
        if storage._cdata not in self._memories:
            self._memories[storage._cdata] = Memory(storage.data_ptr(), storage.nbytes(), StorageWeakRef(storage))
        return self._memories[storage._cdata]

    def hold(self, tensor: Tensor) -> None:
        """See `ops.recording.Recorder`."""
        self.view(tensor)

    def view(self, tensor: Tensor) -> View:
        """Return what is noted of a tensor; its memory is held as long as it does not vary."""
        memory = self._memory_of(tensor)
        geometry = tuple(tensor.shape), tensor.stride(), int(tensor.storage_offset())
        view = View(memory, tensor.dtype, geometry)
        if not memory.varies:
            view.tensor = tensor
            memory.views.append(view)
        return view

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        leaves, structure = tree_flatten((args, kwargs), is_leaf=_without_tensors)
        arguments = [self.view(leaf) if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        read = [each for each in arguments if isinstance(each, View)]
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
        operation = Operation(func, arguments, structure, [], varies or any(memory.varies for memory in written))
        known = {each.memory for each in read}
        for memory in {self._memory_of(each) for each in made if isinstance(each, Tensor)} - known:
            memory.maker, memory.varies, memory.blank = operation, varies, func.overloadpacket in _EMPTY
        for memory in written:
            self._write(memory, operation, varies)
        operation.results = [self.view(each) if isinstance(each, Tensor) else each for each in made]
        new = {each.place for each in operation.results if isinstance(each, View)} - {each.place for each in read}
        if new or written:  # otherwise it is a view, and said by the arguments of others
            self.calls.append(operation)
        return result

    def launch(self, kernel: int, workers: int, numbers: Sequence[int]) -> None:
        """See `ops.recording.Recorder`.

        Raises:
            RuntimeError: if a number is an address of memory that was not met before.
        """
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
        call = Launch(kernel, workers, list(numbers), addresses, varies)
        for memory in call.memories():
            if memory.blank:
                self._write(memory, call, varies)
        self.calls.append(call)

    def _write(self, memory: Memory, call: Operation | Launch, varies: bool) -> None:
        """Take note that ``call`` writes to a block, which varies from then on where the call does."""
        if memory.maker is None and varies and memory is not self.images:
            raise ValueError(CHANGES_ITSELF)
        memory.writers.append(call)
        if varies and not memory.varies:
            memory.varies = True
            for view in memory.views:
                view.tensor = None
            memory.views.clear()
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


def _depends_on_values(function: Any, read: Sequence[View]) -> bool:
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
