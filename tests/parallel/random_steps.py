"""Random training runs, and the ways to do them that must give the same bits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import strategies as st

import distopt
from distopt import IndexedSlices, Strategy, Variable
from distopt.constraints import NonNeg
from distopt.optimizers import SGD, Adam, legacy
from distopt.optimizers.schedules import ExponentialDecay

OPTIMIZERS = {
    "SGD": lambda **k: SGD(learning_rate=0.1, **k),
    "momentum": lambda **k: SGD(learning_rate=0.1, momentum=0.9, nesterov=True, **k),
    "Adam": lambda **k: Adam(learning_rate=ExponentialDecay(0.1, 2, 0.9), **k),
    "AMSGrad": lambda **k: Adam(learning_rate=0.1, amsgrad=True, **k),
    "decay and average": lambda **k: spare_scalars(
        Adam(learning_rate=0.1, weight_decay=0.3, use_ema=True, ema_momentum=0.5, ema_overwrite_frequency=2, **k)
    ),
    "legacy SGD": lambda **k: legacy.SGD(learning_rate=0.1, decay=0.01, **k),
    "legacy momentum": lambda **k: legacy.SGD(learning_rate=0.1, momentum=0.9, **k),
    "legacy Adam": lambda **k: legacy.Adam(learning_rate=0.05, amsgrad=True, **k),
    "NonFusedAdam": lambda **k: legacy.NonFusedAdam(learning_rate=0.05, **k),
}


def spare_scalars(optimizer):
    """So that the variables of one buffer are updated by two variants of the rule."""
    optimizer.exclude_from_weight_decay(var_names=["0"])
    return optimizer


SHAPES = [(), (0, 4), (1,), (7,), (40, 3), (53, 47), (4096,), (3 * 4096 + 5,), (300, 211), (131_072 + 17,)]
DTYPES = ["float16", "bfloat16", "float32", "float64"]
PATTERNS = ["dense", "sparse", "absent", "mixed"]


class WithoutNode(Strategy):
    """Replicas that exchange messages only."""

    def node(self) -> None:
        """None: they share no memory."""


@dataclass(frozen=True)
class Step:
    """What the replicas bring to one step.

    Args:
        entries: the variables of the list, in its order.
        patterns: for each entry how its gradient comes: all alike, or drawn by each replica.
        items: whether replicas give items, some of them none.
    """

    entries: tuple[int, ...]
    patterns: tuple[str, ...]
    items: bool


@dataclass(frozen=True)
class Run:
    """A training run: optimizer, its options, shapes and dtypes of the variables, steps, seed of the numbers."""

    optimizer: str
    options: dict[str, Any]
    variables: tuple[tuple[tuple[int, ...], str], ...]
    steps: tuple[Step, ...]
    seed: int


@st.composite
def runs(draw: Any) -> Run:
    """Draw a run that both modes can do."""
    optimizer = draw(st.sampled_from(sorted(OPTIMIZERS)))
    options = draw(st.sampled_from([{}, {"clipvalue": 0.7}, {"clipnorm": 1.5}, {"global_clipnorm": 3.0}]))
    variables = draw(st.lists(st.tuples(st.sampled_from(SHAPES), st.sampled_from(DTYPES)), min_size=1, max_size=6))
    subsets = st.lists(st.sampled_from(range(len(variables))), min_size=1, unique=True)
    lists = draw(st.lists(subsets, min_size=1, max_size=2))
    steps = []
    for k in range(draw(st.integers(1, 4))):
        entries = lists[k % len(lists)]
        patterns = draw(st.lists(st.sampled_from(PATTERNS), min_size=len(entries), max_size=len(entries)))
        steps.append(Step(tuple(entries), tuple(patterns), draw(st.booleans())))
    return Run(optimizer, options, tuple(variables), tuple(steps), draw(st.integers(0, 9)))


def placements() -> st.SearchStrategy[tuple[int, ...]]:
    """Draw the node of each of two to six replicas, numbered in the order of the replicas."""
    raw = st.lists(st.integers(0, 2), min_size=2, max_size=6)
    return raw.map(lambda nodes: tuple(list(dict.fromkeys(nodes)).index(node) for node in nodes))


def train(run: Run, kind: type[Strategy], update: str, streamed: bool) -> tuple[list[str], list[bool]]:
    """Digests of the parameters after each step, and of the state in the middle and at the end; is memory kept?"""
    with kind(distopt.get_strategy().communicator, update=update).scope():
        variables = [_variable(k, *each) for k, each in enumerate(run.variables)]
        optimizer, digests = OPTIMIZERS[run.optimizer](**run.options), []
        if isinstance(optimizer, distopt.optimizers.Optimizer):
            optimizer.build(variables)
        addresses: dict[int, int] = {}
        kept = []
        for k, step in enumerate(run.steps):
            do_step(run, k, step, optimizer, variables, streamed)
            digests.append(distopt.digest(variables))
            for entry in step.entries:
                address = variables[entry].value.ctypes.data
                kept.append(addresses.setdefault(entry, address) == address)
            if k in (1, len(run.steps) - 1):
                digests.append(distopt.digest(optimizer.get_weights()))
        return digests, kept


def _variable(k: int, shape: tuple[int, ...], dtype: str) -> Variable:
    numbers = np.random.default_rng(k).normal(size=shape)
    # Legacy optimizers refuse sparse gradients where there is a constraint: a scalar has none.
    return Variable(numbers, name=f"v{k}", dtype=dtype, constraint=None if shape else NonNeg())


def do_step(run: Run, k: int, step: Step, optimizer: Any, variables: list[Variable], streamed: bool) -> None:
    """One step, by ``apply_gradients`` or gradient by gradient."""
    me = distopt.replica_index()
    rng = np.random.default_rng([run.seed, k, me])
    items = [0, 3, 1, 0, 2, 5][(me + k) % 6] + (me == 0) if step.items else None  # some replica has one
    chosen = [variables[entry] for entry in step.entries]
    gradients = [_gradient(rng, pattern, v) for pattern, v in zip(step.patterns, chosen, strict=True)]
    if not set(step.patterns) - {"absent", "mixed"}:  # one exists
        gradients[0] = _dense(rng, chosen[0])
    pairs = list(zip(gradients, chosen, strict=True))
    if not streamed:
        optimizer.apply_gradients(pairs, items=items)
        return
    optimizer.begin_step(chosen)
    for p in rng.permutation(len(pairs)):
        if pairs[p][0] is not None or rng.random() < 0.5:
            optimizer.push(pairs[p][1], pairs[p][0])
    optimizer.end_step(items=items)


def _gradient(rng: np.random.Generator, pattern: str, variable: Variable) -> Any:
    if pattern == "mixed":
        pattern = PATTERNS[rng.integers(3)]
    if pattern == "absent":
        return None
    dense = _dense(rng, variable)
    if pattern == "dense" or not variable.shape or variable.shape[0] == 0:
        return dense
    rows = rng.integers(variable.shape[0], size=rng.integers(7))
    return IndexedSlices(dense[rows], rows, variable.shape)


def _dense(rng: np.random.Generator, variable: Variable) -> Any:
    # Sizes that differ by powers of two show the order of summation.
    numbers = rng.normal(size=variable.shape) * 2.0 ** rng.integers(-5, 5, variable.shape)
    return np.asarray(numbers).astype(variable.dtype)
