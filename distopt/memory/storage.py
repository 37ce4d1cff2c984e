"""Where the value of a variable lies, and how often it was written and assigned."""

from __future__ import annotations

from distopt.arrays import Array
from distopt.memory.flat_buffer import FlatBuffer


class Storage:
    """The memory of one variable.

    Two counts tell what has happened to the value: ``writes`` counts every change, and ``assignments`` those that did
    not come from an optimizer's step. A tape asks whether a value is still the one that it has read (``writes``); an
    exact copy of a rounded weight asks whether somebody else has set the weight (``assignments``).

    Args:
        array: the value; kept as it is.
    """

    __slots__ = ("array", "assignments", "home", "may_differ", "start", "view", "writes")

    def __init__(self, array: Array) -> None:
        self.home: FlatBuffer | None = None
        """The flat buffer that the value lies in; None before an optimizer was built over the variable."""
        self.start = 0
        """Where in the flat buffer."""
        self.writes = 0
        self.assignments = 0
        self.may_differ = False
        """Whether a step that did not aggregate has written it, and nobody has broadcast it since."""
        self._show(array)

    @property
    def buffer(self) -> FlatBuffer:
        """The flat buffer of a variable that has one."""
        assert self.home is not None
        return self.home

    def _show(self, array: Array) -> None:
        self.array = array
        """The value, in the variable's shape."""
        self.view = array.view()
        """The same memory, read-only."""
        self.view.flags.writeable = False

    def move_to(self, array: Array, home: FlatBuffer | None = None, start: int = 0) -> None:
        """Copy the value into an array, a part of a flat buffer, and live there from now on.

        Raises:
            RuntimeError: it lies in a flat buffer already.
        """
        if self.array.base is not None:
            raise RuntimeError("this variable lies in a flat buffer already; its memory is placed once")
        array[...] = self.array
        self._show(array)
        self.home, self.start = home, start

    def note_assignment(self) -> None:
        """Count a change that did not come from an optimizer's step."""
        self.writes += 1
        self.assignments += 1
