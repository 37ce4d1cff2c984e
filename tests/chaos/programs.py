"""Random programs of several replicas: what each of them calls, drawn by hypothesis.

All replicas begin with the same script; edits make the scripts of some differ. ``program_replica`` does what they say
with distopt, ``program_model`` with plain NumPy.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from hypothesis import strategies as st

from distopt import IndexedSlices

SHAPES = ((4, 2), (3,), (), (5000,))
DTYPES = ("float64", "float32", "float32", "float64")
ARRAYS = ((2, 3), (6,), ())
"""Shapes of what collectives carry: none of them a variable's in its dtype."""
RATES = (0.5, 0.25)
OPTIMIZERS = ("SGD", "momentum", "Adam")


@dataclass(frozen=True)
class AllReduce:
    op: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class AllGather:
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Broadcast:
    """Of variables, or, where there are none, of an array."""

    source: int
    variables: tuple[int, ...]


@dataclass(frozen=True)
class Barrier:
    pass


@dataclass(frozen=True)
class Place:
    pass


@dataclass(frozen=True)
class Build:
    optimizer: int


@dataclass(frozen=True)
class Step:
    """A step, by ``apply_gradients`` (of arrays or of gradient buffers) or streamed; one may be begun and not ended."""

    optimizer: int
    entries: tuple[int, ...]
    patterns: tuple[str, ...]
    items: bool
    how: str
    seed: int


@dataclass(frozen=True)
class LocalStep:
    """A step with ``experimental_aggregate_gradients=False``."""

    optimizer: int
    entries: tuple[int, ...]
    seed: int


@dataclass(frozen=True)
class Assign:
    variable: int
    number: int


@dataclass(frozen=True)
class SetRate:
    optimizer: int
    rate: float


@dataclass(frozen=True)
class GetWeights:
    optimizer: int


@dataclass(frozen=True)
class Batches:
    """A loop over global batches with a step in each; it may be left early."""

    optimizer: int
    entries: tuple[int, ...]
    examples: int
    size: int
    leave_after: int


@dataclass(frozen=True)
class Join:
    """A loop over iterators of unequal length with a step in each; it may be left early."""

    optimizer: int
    entries: tuple[int, ...]
    lengths: tuple[int, ...]
    leave_after: int


@dataclass(frozen=True)
class Mistake:
    """A call with an argument that can't be right."""

    what: str
    optimizer: int
    entries: tuple[int, ...]


@dataclass(frozen=True)
class Raise:
    pass


@dataclass(frozen=True)
class Return:
    pass


Op = Any


@dataclass(frozen=True)
class Program:
    """What every replica does.

    Args:
        scripts: the calls of each replica, in order.
        catches: whether each goes on after an exception.
        nodes: the node that each pretends to be on.
        update: the mode of update.
        optimizers: two of ``OPTIMIZERS``.
        starts_differ: whether variables begin with other values on every replica.
        state_every: how often states are compared.
    """

    scripts: tuple[tuple[Op, ...], ...]
    catches: tuple[bool, ...]
    nodes: tuple[int, ...]
    update: str
    optimizers: tuple[str, ...]
    starts_differ: bool
    state_every: int


PATTERNS = ("dense", "sparse", "absent", "mixed")
WAYS = ("apply", "buffers", "stream", "abandon")
LISTS = ((0, 1, 2, 3), (3, 1), (1, 3), (0,))
MISTAKES = ("op", "text", "source", "shape", "items", "push")

_which, _lists = st.integers(0, 1), st.sampled_from(LISTS)
_steps = st.builds(
    Step,
    _which,
    _lists,
    st.tuples(*[st.sampled_from(PATTERNS)] * len(SHAPES)),
    st.booleans(),
    st.sampled_from(WAYS),
    st.integers(0, 9),
)
_sources = st.sampled_from((0, 1))
_shapes, _dtypes = st.sampled_from(ARRAYS), st.sampled_from(("float32", "float64", "int64"))
_ops = st.one_of(
    _steps,
    _steps,
    _steps,
    st.builds(AllReduce, st.sampled_from(("sum", "max")), _dtypes, _shapes),
    st.builds(AllGather, _dtypes, _shapes),
    st.builds(Broadcast, _sources, st.sampled_from(((), (0,), (1, 3)))),
    st.just(Barrier()),
    st.just(Place()),
    st.builds(Build, _which),
    st.builds(LocalStep, _which, _lists, st.integers(0, 9)),
    st.builds(Assign, st.integers(0, 3), st.integers(0, 2)),
    st.builds(SetRate, _which, st.sampled_from(RATES)),
    st.builds(GetWeights, _which),
    st.builds(Batches, _which, _lists, st.integers(1, 7), st.sampled_from((2, 5)), st.sampled_from((0, 0, 1))),
    st.builds(Join, _which, _lists, st.tuples(*[st.integers(0, 2)] * 5), st.sampled_from((0, 0, 1))),
)
_odd_ops = st.one_of(
    _ops,
    st.builds(Mistake, st.sampled_from(MISTAKES), _which, _lists),
    st.just(Raise()),
    st.just(Return()),
)
_edits = st.tuples(
    st.sampled_from(("drop", "insert", "replace", "leave the loop", "change")), st.integers(0, 4), st.integers(0, 7)
)


@st.composite
def programs(draw: Any) -> Program:
    """Draw a program of two to five replicas."""
    count = draw(st.integers(2, 5))
    common = draw(st.lists(_ops, min_size=1, max_size=6))
    if draw(st.booleans()):
        common = [Build(0), Build(1), *common]
    scripts = [list(common) for _ in range(count)]
    for edit, replica, position in draw(st.one_of(st.just([]), st.lists(_edits, min_size=1, max_size=3))):
        script = scripts[replica % count]
        position %= len(script) + 1
        begin, end = position, position + (edit != "insert")
        script[begin:end] = _edited(edit, script[begin:end], draw(_odd_ops))
    catches = draw(st.one_of(st.just((True,) * count), st.tuples(*[st.booleans()] * count)))
    return Program(
        tuple(map(tuple, scripts)),
        catches,
        draw(st.sampled_from([(0,) * count, tuple(2 * r // count for r in range(count)), (0, 1) + (0,) * (count - 2)])),
        draw(st.sampled_from(("replicated", "shared"))),
        draw(st.tuples(*[st.sampled_from(OPTIMIZERS)] * 2)),
        draw(st.booleans()),
        draw(st.sampled_from((0, 1, 2))),
    )


def _edited(edit: str, ops: list[Op], other: Op) -> list[Op]:
    """What one replica does in place of a call of all."""
    if edit == "change":
        return [_changed(op) for op in ops]
    if edit == "leave the loop":
        return [replace(op, leave_after=1) if hasattr(op, "leave_after") else op for op in ops]
    return {"drop": [], "insert": [other], "replace": [other]}[edit]


def _changed(op: Op) -> Op:
    """Almost the same call."""
    if isinstance(op, Step) and op.seed % 3 == 0:
        return replace(op, how=WAYS[(WAYS.index(op.how) + 1) % len(WAYS)])
    if hasattr(op, "optimizer"):
        return replace(op, optimizer=1 - op.optimizer)
    return replace(op, shape=(6,)) if hasattr(op, "shape") else op


# What replicas bring: the same numbers for distopt and for the model. Whole numbers: their sums are exact.


def initial_value(program: Program, entry: int, replica: int) -> np.ndarray:
    number = 1 + entry + (10 * replica if program.starts_differ else 0)
    return np.full(SHAPES[entry], number, DTYPES[entry])


def contribution(shape: tuple[int, ...], dtype: str, replica: int) -> np.ndarray:
    return (np.arange(np.prod(shape), dtype=dtype) + 1).reshape(shape) * (replica + 1)


def gradients_of(step: Step | LocalStep, replica: int) -> list[np.ndarray | IndexedSlices | None]:
    rng = np.random.default_rng([step.seed, replica])
    patterns = step.patterns if isinstance(step, Step) else ("dense",) * len(SHAPES)
    return [_gradient(rng, patterns[entry], entry) for entry in step.entries]


def _gradient(rng: np.random.Generator, pattern: str, entry: int) -> np.ndarray | IndexedSlices | None:
    if pattern == "mixed":
        pattern = PATTERNS[rng.integers(3)]
    if pattern == "absent":
        return None
    dense = np.asarray(rng.integers(-3, 4, SHAPES[entry])).astype(DTYPES[entry])
    if pattern == "dense" or not SHAPES[entry]:
        return dense
    rows = rng.integers(SHAPES[entry][0], size=rng.integers(4))
    return IndexedSlices(dense[rows], rows, SHAPES[entry])


def items_of(step: Step, replica: int) -> int | None:
    return (replica + step.seed) % 3 + (replica == 0) if step.items else None  # some replica has one


def full(entries: tuple[int, ...], number: float) -> list[np.ndarray]:
    return [np.full(SHAPES[entry], number, DTYPES[entry]) for entry in entries]
