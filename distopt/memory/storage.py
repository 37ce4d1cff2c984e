"""The storage of a variable: where its value lies, and how often it was written."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from distopt.arrays import Array
from distopt.memory.flat_buffer import FlatBuffer


class Writer(Protocol):
    """A writer of a value that exists once per node."""

    def write(self, name: str, target: Array, value: Array) -> None:
        """Give all replicas of the job a new value (collective)."""


class Storage:
    """The memory of one variable.

    ``writes`` counts the changes of the value. A tape asks whether a value is still the one that it has read; who keeps
    an exact copy of a rounded weight asks whether anybody else has written the weight since.

    Args:
        array: the value; kept as it is.
    """

    __slots__ = ("_shared_by", "array", "buffer", "may_differ", "start", "view", "writes")

    def __init__(self, array: Array) -> None:
        self.buffer: FlatBuffer | None = None
        """The flat buffer that the value lies in; None before an optimizer was built over the variable."""
        self.start = 0
        """The start of the value in the flat buffer."""
        self.writes = 0
        self.may_differ = False
        """True where a step that did not aggregate has written it, and nobody has broadcast it since."""
        self._shared_by: Writer | None = None
        self._show(array)

    @property
    def shared_by(self) -> Writer | None:
        """Return the writer of a value that exists once per node, or None."""
        if self._shared_by is not None:
            return self._shared_by
        return None if self.buffer is None else self.buffer.shared_by

    def share(self, shared_by: Writer) -> None:
        """Note that the value exists once per node from now on."""
        self._shared_by = shared_by

    @property
    def allocated_buffer(self) -> FlatBuffer:
        """The flat buffer of a variable that has one."""
        assert self.buffer is not None
        return self.buffer

    def _show(self, array: Array) -> None:
        self.array = array
        """The value, in the variable's shape."""
        self.view = array.view()
        """The same memory, read-only."""
        self.view.flags.writeable = False

    def move_to(self, array: Array, buffer: FlatBuffer | None = None, start: int = 0) -> None:
        """Copy the value into an array, a part of a flat buffer, and live there from now on.

        Raises:
            RuntimeError: it lies in a flat buffer already.
        """
        if self.array.base is not None:
            raise RuntimeError("this variable lies in a flat buffer already; its memory is placed once")
        array[...] = self.array
        self._show(array)
        self.buffer, self.start = buffer, start

    def adopt(self, array: Array, parts: list[tuple[int, int]], start: int) -> None:
        """Live in memory that others have written, and copy the value into this replica's part of it.

        Args:
            array: the memory, in the variable's shape.
            parts: the ranges of the flat buffer that are this replica's.
            start: where the array begins in the flat buffer.
        """
        value = self.array.reshape(-1)
        for begin, end in parts:
            array.reshape(-1)[begin - start : end - start] = value[begin - start : end - start]
        self._show(array)

    def note_difference(self) -> None:
        """Note that other replicas may have another value."""
        self.may_differ = True

    def note_write(self) -> None:
        """Count a change of the value."""
        self.writes += 1


def note_writes(storages: Iterable[Storage]) -> None:
    """Count a change of each of these values: what a step does."""
    for storage in storages:
        storage.writes += 1
