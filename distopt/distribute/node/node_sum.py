"""The sum over replicas where those of a node share memory: the slabs are read where they lie.

Every part of a slab has an *owner* among all replicas, which ends up with its sum, in its own slab. On one node the
owner adds the slabs of the node, in the tree of ``summation``. Between nodes the sums of the maximal subtrees that lie
wholly on one node travel to the owner, which adds the rest of the tree; so no placement changes a bit. On each other
node one replica, the *delegate*, works for the owner: it adds there, and keeps there what the owner sends back.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np

from distopt.arrays import wide_dtype
from distopt.distribute.agreement.communicator import Array
from distopt.distribute.node.node import Node
from distopt.kernels import add_tree
from distopt.memory.layout import aligned_zeros
from distopt.process.moments import ACTIVE, Moment
from distopt.process.observers import observe

Ranges: TypeAlias = Sequence[tuple[int, int]]
_Leaf: TypeAlias = tuple[int, int]


class NodeSum:
    """The sum of one flat buffer per replica: prepared once, called in every step.

    Args:
        node: this replica's node.
        flats: the buffers of the node's replicas, by their index on it.
        ranges: for every replica of the job the (begin, end) of what it owns.
        wire: dtype of what travels between nodes; None is that of the sums: at least float32.
        out: where this replica's sums come to lie, float32 or in the dtype of the buffers; None: in its own buffer.
    """

    def __init__(
        self,
        node: Node,
        flats: Sequence[Array],
        ranges: Sequence[Ranges],
        wire: np.dtype[Any] | None = None,
        out: Array | None = None,
    ) -> None:
        mine = ranges[node.communicator.index]
        self._rows = [[flat[begin:end] for flat in flats] for begin, end in mine]
        # The very row, where it is one: the kernel is faster then.
        self._totals = [rows[node.index_on_node] for rows in self._rows]
        if out is not None and out is not flats[node.index_on_node]:
            self._totals = [out[begin:end] for begin, end in mine]
        self._partials = None if node.is_whole_job else _Partials(node, flats, ranges, wire)

    def __call__(self) -> None:
        """Put the sums into what this replica owns of the output; what the others own is left as it is."""
        if ACTIVE:
            observe(Moment.SUM)
        if self._partials is None:
            for rows, mine in zip(self._rows, self._totals, strict=True):
                add_tree(rows, mine)
            return
        total, begin = self._partials.collect(), 0
        for mine in self._totals:
            np.copyto(mine, total[begin : begin + mine.size], casting="same_kind")
            begin += mine.size


class _Partials:
    """Sums of subtrees, from every node to the owners."""

    def __init__(
        self, node: Node, flats: Sequence[Array], ranges: Sequence[Ranges], wire: np.dtype[Any] | None
    ) -> None:
        communicator, me = node.communicator, node.communicator.index
        self._flats, self._first = flats, node.members[0]
        self._members, self._ranges, self._me = node.members, ranges, me
        self._size = communicator.size
        self._wide = wide_dtype(flats[0].dtype)
        self._wire = wire or self._wide
        self._leaves = maximal_subtrees(node.nodes)
        self._local = [leaf for leaf in self._leaves if node.nodes[leaf[0]] == node.here]
        lengths = [sum(end - begin for begin, end in parts) for parts in ranges]
        self._out = {s: self._rows(len(self._local), lengths[s]) for s in node.represented_owners() if lengths[s]}
        self._in: dict[int, list[_Leaf]] = {}
        self._received: dict[int, Array] = {}
        for other in sorted(set(node.nodes) - {node.here}) if lengths[me] else ():
            leaves = [leaf for leaf in self._leaves if node.nodes[leaf[0]] == other]
            source = node.delegate(me, other)
            self._in[source], self._received[source] = leaves, self._rows(len(leaves), lengths[me])
        self._scratch = aligned_zeros(lengths[me] * len(self._leaves), self._wide).reshape(len(self._leaves), -1)
        self._transfer = communicator.prepare(
            [self._out[r].reshape(-1) if r in self._out else None for r in range(self._size)],
            [self._received[r].reshape(-1) if r in self._received else None for r in range(self._size)],
        )

    def _rows(self, count: int, length: int) -> Array:
        return aligned_zeros(count * length, self._wire).reshape(count, length)

    def collect(self) -> Array:
        """Return the sum of what this replica owns, end to end."""
        with np.errstate(over="ignore"):  # as in the kernels
            return self._collect()

    def _collect(self) -> Array:
        for owner, rows in self._out.items():
            for leaf, row in zip(self._local, rows, strict=True):
                self._add_subtree(leaf, owner, row)
        self._transfer()
        sums = dict(zip(self._leaves, self._scratch, strict=True))
        for leaf in self._local:
            self._add_subtree(leaf, self._me, sums[leaf])
        for source, leaves in self._in.items():
            for leaf, row in zip(leaves, self._received[source], strict=True):
                sums[leaf][...] = row
        total = _add_up(sums, 0, _width(self._size), self._size)
        if self._wire != self._wide:  # every node must have what those behind the wire get
            total[...] = total.astype(self._wire)
        return total

    def _add_subtree(self, leaf: _Leaf, owner: int, out: Array) -> None:
        """Add the slabs of a subtree of this node, in the parts of an owner, end to end."""
        members = [self._flats[self._members.index(r)] for r in range(*leaf)]
        begin = 0
        for first, last in self._ranges[owner]:
            target = out[begin : begin + last - first]
            rows = [flat[first:last].astype(self._wide, copy=False) for flat in members]
            if len(rows) == 1 or target.dtype != self._wide:
                partial = rows[0] if len(rows) == 1 else np.empty(target.size, self._wide)
                if len(rows) > 1:
                    add_tree(rows, partial)
                target[...] = partial
            else:
                add_tree(rows, target)
            begin += target.size


class Spread:
    """A transfer of what owners have to the delegates on the other nodes; on one node there is nothing to do.

    Args:
        node: this replica's node.
        views: for every replica of the job arrays on this node: what it owns there; as many bytes on every node.
        wire: dtype that holds the values of all wider views exactly, and in which they travel; None is their own.
        once: it will be called once only.
    """

    def __init__(
        self,
        node: Node,
        views: Sequence[Sequence[Array]],
        *,
        wire: np.dtype[Any] | None = None,
        once: bool = False,
    ) -> None:
        communicator, me = node.communicator, node.communicator.index
        self._wire = wire
        self._mine, self._packed = views[me], _packed(views[me], wire)
        self._represented = [(views[s], _packed(views[s], wire)) for s in node.represented_owners()]
        sends: list[Array | None] = [None] * communicator.size
        receives: list[Array | None] = [None] * communicator.size
        for other in set(node.nodes) - {node.here}:
            sends[node.delegate(me, other)] = self._packed
        for s, (_, packed) in zip(node.represented_owners(), self._represented, strict=True):
            receives[s] = packed
        self._is_needed = not node.is_whole_job
        self._transfer = communicator.prepare(
            list(map(_unless_empty, sends)), list(map(_unless_empty, receives)), once=once
        )

    def __call__(self) -> None:
        """Send this replica's, receive what it holds for others."""
        if not self._is_needed:
            return
        for view, part in _parts(self._mine, self._packed, self._wire):
            part[...] = view
        self._transfer()
        for views, packed in self._represented:
            for view, part in _parts(views, packed, self._wire):
                view[...] = part


def _packed(views: Sequence[Array], wire: np.dtype[Any] | None) -> Array:
    return np.empty(sum(view.size * _travels_as(view, wire).itemsize for view in views), np.uint8)


def _travels_as(view: Array, wire: np.dtype[Any] | None) -> np.dtype[Any]:
    return wire if wire is not None and wire.itemsize < view.itemsize else view.dtype


def _unless_empty(array: Array | None) -> Array | None:
    return array if array is not None and array.size else None


def _parts(views: Sequence[Array], packed: Array, wire: np.dtype[Any] | None) -> Iterator[tuple[Array, Array]]:
    begin = 0
    for view in views:
        dtype = _travels_as(view, wire)
        end = begin + view.size * dtype.itemsize
        yield view, packed[begin:end].view(dtype)
        begin = end


def maximal_subtrees(nodes: Sequence[int]) -> list[tuple[int, int]]:
    """Return the largest subtrees of the summation tree that lie wholly on one node, as ranges of replicas.

    Args:
        nodes: the node of every replica.

    Example:
        >>> maximal_subtrees([0, 0, 1, 1]), maximal_subtrees([0, 0, 0, 1, 1, 1])
        ([(0, 2), (2, 4)], [(0, 2), (2, 3), (3, 4), (4, 6)])
    """

    def below(first: int, width: int) -> list[tuple[int, int]]:
        last = min(first + width, len(nodes))
        if len(set(nodes[first:last])) == 1:
            return [(first, last)]
        half = width // 2
        right = below(first + half, half) if first + half < len(nodes) else []
        return below(first, half) + right

    return below(0, _width(len(nodes)))


def _add_up(sums: dict[_Leaf, Array], first: int, width: int, size: int) -> Array:
    """Return the sum of a subtree, in the memory of its first leaf."""
    leaf = (first, min(first + width, size))
    if leaf in sums:
        return sums[leaf]
    half = width // 2
    left = _add_up(sums, first, half, size)
    if first + half < size:
        add_tree([left, _add_up(sums, first + half, half, size)], left)
    return left


def _width(size: int) -> int:
    """The number of places of the whole tree: a power of two."""
    return 1 << (size - 1).bit_length()
