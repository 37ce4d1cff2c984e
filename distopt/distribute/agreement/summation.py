"""The sum over replicas, in an order that is distopt's own.

Node k of level l of the tree covers replicas [k 2^l, (k+1) 2^l) below R; adjacent pairs are added::

    R = 5:   ((g0 + g1) + (g2 + g3)) + g4

A small array is summed by recursive doubling: at each level of the tree, neighbouring nodes exchange their sums. A
large one is cut into R spans: each replica, the owner of a span, receives the others' parts, adds them with
``kernels.add_tree`` and hands the sum back. Where a transport has memory in common, the owner reads the parts there
(``staging``). Any way every element is added in the tree above, so the bits depend on
the number of replicas and on nothing else. 16-bit arrays always go by spans: their partial sums stay float32 there.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TypeAlias

from distopt.distribute.agreement.communicator import Array, Communicator, Copies, Stage, Transfer
from distopt.kernels import add_tree
from distopt.memory.layout import aligned_zeros
from distopt.process.moments import ACTIVE, Moment
from distopt.process.observers import observe

SMALL_BYTES = 8192
"""Arrays up to this size are summed by doubling: fewer messages are worth more there than fewer bytes."""

PIECE_BYTES = 32 << 20
"""A large array is summed in pieces of at most this size, which bounds the scratch memory."""

_Prepare: TypeAlias = Callable[[Sequence[Array | None], Sequence[Array | None]], Transfer]

_ALIGNMENT = 4096
"""Spans are cut on the block limits of the norms (elements)."""


class Summation:
    """The sum of one buffer over replicas: prepared once, called in every step.

    Args:
        communicator: the replicas; all prepare buffers of equal length and dtype, and call together.
        flat: contiguous array of shape (n,), float16, bfloat16, float32 or float64; overwritten by each call.
        once: it will be called once only.
    """

    def __init__(self, communicator: Communicator, flat: Array, *, once: bool = False) -> None:
        prepare = functools.partial(communicator.prepare, once=once)
        self._stages: list[Stage] = []
        if communicator.size == 1 or flat.size == 0:
            return
        if communicator.staging is not None:
            self._stages = communicator.staging.stages(flat, span_limits)
            return
        if flat.nbytes <= SMALL_BYTES and flat.itemsize > 2:
            self._stages = _by_doubling(communicator, prepare, flat)
            return
        piece = PIECE_BYTES // flat.itemsize
        longest = max(b - a for a, b in pairwise(span_limits(min(piece, flat.size), communicator.size)))
        scratch = aligned_zeros((communicator.size - 1) * longest, flat.dtype).reshape(-1, longest)
        for start in range(0, flat.size, piece):
            self._stages.append(_by_spans(communicator, prepare, flat[start : start + piece], scratch))

    def __call__(self) -> None:
        """Replace the buffer by its sum over replicas."""
        for stage in self._stages:
            stage.collect()
            if ACTIVE:
                observe(Moment.SUM)
            add_tree(stage.rows, stage.out)
            stage.distribute()


def sum_in_place(communicator: Communicator, flat: Array) -> None:
    """Replace a flat array by its sum over replicas, once."""
    Summation(communicator, flat, once=True)()


def span_limits(size: int, replicas: int) -> list[int]:
    """Cut [0, size) into one span per replica, on block limits where the size allows.

    Example:
        >>> span_limits(10, 4), span_limits(16384, 2)
        ([0, 2, 5, 7, 10], [0, 8192, 16384])
    """
    unit = _ALIGNMENT if size >= _ALIGNMENT * replicas else 1
    blocks = size // unit
    return [blocks * r // replicas * unit for r in range(replicas)] + [size]


def _by_doubling(communicator: Communicator, prepare: _Prepare, flat: Array) -> list[Stage]:
    """Level by level of the tree, replicas exchange the sums of their nodes with those of the neighbouring node."""
    size, me = communicator.size, communicator.index
    other = aligned_zeros(flat.size, flat.dtype)
    stages: list[Stage] = []
    width = 1
    while width < size:
        left = me // (2 * width) * 2 * width
        right = left + width
        sources: dict[int, int] = {}
        rows = [flat]
        if right < size:  # else the node has no neighbour and goes up as it is
            # The right node may have fewer replicas: each serves several of the left, and hears from one.
            sources = {r: right + (r - left) % min(width, size - right) for r in range(left, right)}
            sources |= {r + width: r for r in range(left, right) if r + width < size}
            rows = [flat, other] if me < right else [other, flat]
        collect = prepare(
            [flat if sources.get(r) == me else None for r in range(size)],
            [other if sources.get(me) == r else None for r in range(size)],
        )
        stages.append(Stage(collect, rows, flat, Copies([])))
        width *= 2
    return stages


def _by_spans(communicator: Communicator, prepare: _Prepare, flat: Array, scratch: Array) -> Stage:
    """The owner of a span gets everybody's part of it, adds, and hands the sum back."""
    size, me = communicator.size, communicator.index
    spans = [flat[a:b] for a, b in pairwise(span_limits(flat.size, size))]
    mine = spans[me]
    rows = [row[: mine.size] for row in scratch]
    rows.insert(me, mine)
    collect = prepare(_except(me, spans), _except(me, rows))
    distribute = prepare(_except(me, [mine] * size), _except(me, spans))
    return Stage(collect, rows, mine, distribute)


def _except(me: int, arrays: Sequence[Array]) -> list[Array | None]:
    return [None if r == me else array for r, array in enumerate(arrays)]
