"""The list of variables of one step, as entries of a slab.

A list that is part of a known one lies in that one's slab: users leave variables without a gradient out of the list, in
another way each step, and memory for every such list would never end.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import cached_property

from distopt.memory.flat_buffer import FlatBuffer
from distopt.slabs.slab import Slab, describe
from distopt.variables.variable import Variable

ABSENT, DENSE, SPARSE, UNLISTED = 0, 1, 2, 3
"""The kinds of what a replica has for an entry of the slab; ``UNLISTED`` is no part of the list."""


class Listing:
    """The entries of a slab that a step lists, in order.

    Args:
        slab: the memory for the gradients.
        entries: the listed entries, each at most once; None: all, in the order of the slab.

    Example:
        >>> import numpy as np
        >>> a, b, c = (Variable(np.float32([k]), name=name) for k, name in enumerate("abc"))
        >>> listing = Listing(Slab([a, b, c]), [2, 0])
        >>> [variable.name for variable in listing.variables], list(listing.blank)
        (['c', 'a'], [0, 3, 0])
    """

    def __init__(self, slab: Slab, entries: Sequence[int] | None = None) -> None:
        self.slab = slab
        is_whole = entries is None or list(entries) == slab.all_entries
        self.entries: Sequence[int] = slab.all_entries if entries is None or is_whole else list(entries)
        """The listed entries, in the order of the list; of the whole list the slab's own ``all_entries``."""
        self.is_whole = is_whole
        """True where the slab is the list's own: nothing else lies in it."""
        self.variables = slab.variables if is_whole else [slab.variables[k] for k in self.entries]
        """The listed variables, in the order of the list."""
        blank = bytearray([ABSENT if is_whole else UNLISTED]) * len(slab.variables)
        for k in self.entries:
            blank[k] = ABSENT
        self.blank = bytes(blank)
        """The kinds of gradients before any has come: ABSENT where one may come, else UNLISTED."""
        self.has_duplicates = len({id(variable) for variable in self.variables}) < len(self.variables)
        """True where a variable stands in the list twice."""
        self.has_slots = False
        """True where every variable of the list has its slots."""

    def note_slots(self) -> None:
        """Note that every variable of the list has its slots."""
        self.has_slots = True

    @cached_property
    def buffers(self) -> list[FlatBuffer]:
        """Return the buffers that the listed variables lie in."""
        if self.is_whole:
            return self.slab.buffers
        return list(dict.fromkeys(variable.storage.allocated_buffer for variable in self.variables))

    @cached_property
    def entry_of(self) -> dict[int, int]:
        """Each listed variable's entry, by id."""
        return {id(variable): k for k, variable in zip(self.entries, self.variables, strict=True)}

    @cached_property
    def description(self) -> str:
        """Names, shapes and dtypes, as a mismatch shows them; of a part also which of the slab's variables they are."""
        listed = describe(self.variables)
        if self.is_whole:
            return listed
        return f"{listed} (numbers {', '.join(map(str, self.entries))} of {len(self.slab.variables)})"


def find_listing(slab: Slab, variables: Sequence[Variable]) -> Listing | None:
    """Return a list as a part of a slab; None where a variable of it has no entry there.

    Example:
        >>> import numpy as np
        >>> a, b = Variable(np.float32([1])), Variable(np.float32([2]))
        >>> find_listing(Slab([a, b]), [b]).entries, find_listing(Slab([a]), [a, b])
        ([1], None)
    """
    places: dict[int, list[int]] = {}
    for k in reversed(slab.all_entries):
        places.setdefault(id(slab.variables[k]), []).append(k)
    entries = []
    for variable in variables:
        free = places.get(id(variable))
        if not free:
            return None
        entries.append(free.pop())
    return Listing(slab, entries)


def united(variables: Sequence[Variable], known: Sequence[Variable]) -> list[Variable]:
    """Return a list, and after it what it lacks of a known one; what stands twice in either stands twice there.

    Example:
        >>> import numpy as np
        >>> a, b, c = (Variable(np.float32([k]), name=name) for k, name in enumerate("abc"))
        >>> [variable.name for variable in united([c, a], [a, b, a])]
        ['c', 'a', 'b', 'a']
    """
    listed = Counter(map(id, variables))
    rest = []
    for variable in known:
        if listed[id(variable)] > 0:
            listed[id(variable)] -= 1
        else:
            rest.append(variable)
    return [*variables, *rest]
