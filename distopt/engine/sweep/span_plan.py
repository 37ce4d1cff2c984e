"""The plan of a sweep over some entries of a slab, made once: sums, the blocks of every owner, messages."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from distopt.arrays import Array
from distopt.distribute.node.node import Node
from distopt.distribute.node.node_sum import NodeSum, Spread
from distopt.engine.sweep.partition import Block, Part, blocks_of, parts_of, ranges_of, runs_of
from distopt.memory.layout import SPAN_UNIT
from distopt.slabs.slab import Slab


@dataclass(frozen=True)
class Memories:
    """The memory of each other that the replicas of a node read: for each dtype one buffer per replica, by index.

    Args:
        flats: the gradients.
        wide: for each dtype of 16 bits float32, where sums are formed that are divided before they are rounded.
    """

    flats: Mapping[np.dtype[Any], Sequence[Array]]
    wide: Mapping[np.dtype[Any], Sequence[Array]]


class OwnedPart:
    """The part of one flat buffer that one owner has.

    Args:
        slab: the slab.
        parts: the owner's.
        flats: the flat buffers of the node's replicas, by their index on it.
        delegate: the index on the node of the one that gets their sum.
    """

    def __init__(self, slab: Slab, parts: Sequence[Part], flats: Sequence[Array], delegate: int) -> None:
        self._slab, self._parts, self._flats, self.delegate = slab, parts, flats, delegate
        self.ranges = ranges_of(parts)

    @property
    def totals(self) -> list[Array]:
        """Return the arrays that the sums come to lie in."""
        return [self._flats[self.delegate][begin:end] for begin, end in self.ranges]

    @cached_property
    def blocks(self) -> list[Block]:
        """The parts, in blocks that stay in the cache."""
        return [Block(self._slab, block, self._flats, self.delegate) for block in blocks_of(self._parts)]

    @cached_property
    def runs(self) -> list[Block]:
        """The parts, in as few blocks as they can be."""
        return [Block(self._slab, run, self._flats, self.delegate) for run in runs_of(self._parts)]


class SpanPlan:
    """The plan for a set of entries.

    Args:
        node: the replicas.
        slab: the gradients.
        memories: the buffers of the node's replicas.
        entries: which.
        wire: dtype of what travels between nodes; None is float32 or wider.
    """

    def __init__(
        self,
        node: Node,
        slab: Slab,
        memories: Memories,
        entries: Sequence[int],
        wire: np.dtype[Any] | None,
    ) -> None:
        self._node, self._slab, self._memories, self._wire = node, slab, memories, wire
        self._wide_sums: dict[bool, list[NodeSum]] = {}
        self._squares_spread: Spread | None = None
        self._sums_spreads: dict[np.dtype[Any] | None, Spread] = {}
        replicas, me = node.communicator.size, node.communicator.index
        self.by_owner: list[list[OwnedPart]] = [[] for _ in range(replicas)]
        for dtype, of_members in memories.flats.items():
            owned = parts_of(slab, dtype, entries, replicas)
            for owner, parts in enumerate(owned):
                delegate = node.members.index(node.delegate(owner, node.here))
                self.by_owner[owner].append(OwnedPart(slab, parts, of_members, delegate))
        self.owned_parts = self.by_owner[me]
        self.all_parts = [owned_part for of_owner in self.by_owner for owned_part in of_owner]

    @cached_property
    def sums(self) -> list[NodeSum]:
        """Each puts the sums of what this replica owns of one flat buffer into its slab."""
        return [
            NodeSum(self._node, flats, ranges, self._wire)
            for flats, ranges in zip(self._memories.flats.values(), self._ranges(), strict=True)
        ]

    def wide_sums(self, *, of_wide: bool) -> list[NodeSum]:
        """Return ``sums`` that leave sums of 16 bits in float32.

        Args:
            of_wide: whether gradients of 16 bits lie in float32 too.
        """
        if of_wide not in self._wide_sums:
            flats, wide, place = self._memories.flats, self._memories.wide, self._node.index_on_node
            self._wide_sums[of_wide] = [
                NodeSum(
                    self._node,
                    wide.get(dtype, flats[dtype]) if of_wide else flats[dtype],
                    ranges,
                    self._wire,
                    wide.get(dtype, flats[dtype])[place],
                )
                for dtype, ranges in zip(flats, self._ranges(), strict=True)
            ]
        return self._wide_sums[of_wide]

    def _ranges(self) -> list[list[list[tuple[int, int]]]]:
        """For each flat buffer what every owner has of it."""
        return [[owned_part[k].ranges for owned_part in self.by_owner] for k in range(len(self._memories.flats))]

    def wide_totals(self) -> Iterator[tuple[Array, Array]]:
        """Give what this replica owns of sums of 16 bits: as float32, and where they belong in its slab."""
        place = self._node.index_on_node
        for dtype, owned_part in zip(self._memories.flats, self.owned_parts, strict=True):
            if dtype in self._memories.wide:
                wide, flat = self._memories.wide[dtype][place], self._memories.flats[dtype][place]
                yield from ((wide[begin:end], flat[begin:end]) for begin, end in owned_part.ranges)

    def copy_totals(self, index_on_node: int) -> None:
        """Copy the sums that others own into the slab of this replica."""
        for owned_part in self.all_parts:
            if owned_part.delegate != index_on_node:
                for run in owned_part.runs:
                    np.copyto(run.rows[index_on_node], run.total)

    def overwritten(self, index_on_node: int) -> dict[np.dtype[Any], list[tuple[int, int]]]:
        """Return the ranges of this replica's slab where sums come to lie."""
        ranges: dict[np.dtype[Any], list[tuple[int, int]]] = {}
        for of_owner in self.by_owner:
            for dtype, owned_part in zip(self._slab.flats, of_owner, strict=True):
                if owned_part.delegate == index_on_node:
                    ranges.setdefault(dtype, []).extend(owned_part.ranges)
        return ranges

    def publish(self, *, as_summed: bool) -> None:
        """Bring the sums to the other nodes.

        Args:
            as_summed: they are as ``sum`` left them, rounded to the wire's dtype, and so can travel in it.
        """
        if self._node.is_whole_job:
            return
        wire = self._wire if as_summed else None
        if wire not in self._sums_spreads:
            totals = [[total for owned_part in of_owner for total in owned_part.totals] for of_owner in self.by_owner]
            self._sums_spreads[wire] = Spread(self._node, totals, wire=wire)
        self._sums_spreads[wire]()

    def publish_squares(self, squares: Array) -> None:
        """Bring the block sums of squares, always those of one table, to the other nodes."""

        def of(part: Part) -> Array:
            first = self._slab.first_norm_block[part.entry] + part.first // SPAN_UNIT
            return squares[first : first - (-part.length // SPAN_UNIT)]

        if self._node.is_whole_job:
            return
        if self._squares_spread is None:
            self._squares_spread = Spread(self._node, self._views(of))
        self._squares_spread()

    def publish_parameters(self) -> None:
        """Bring updated parameters to the other nodes."""
        if not self._node.is_whole_job:
            self._parameters_spread()

    @cached_property
    def _parameters_spread(self) -> Spread:
        def of(part: Part) -> Array:
            variable = self._slab.variables[part.entry]
            begin = variable.storage.start + part.first
            flat: Array = variable.storage.allocated_buffer.flat
            return flat[begin : begin + part.length]

        return Spread(self._node, self._views(of))

    def _views(self, of: Callable[[Part], Array]) -> list[list[Array]]:
        """For every owner something of each of its parts of the whole slab: sparse entries change too."""
        replicas = self._node.communicator.size
        views: list[list[Array]] = [[] for _ in range(replicas)]
        for dtype in self._slab.flats:
            for owner, parts in enumerate(parts_of(self._slab, dtype, self._slab.all_entries, replicas)):
                views[owner] += map(of, parts)
        return views
