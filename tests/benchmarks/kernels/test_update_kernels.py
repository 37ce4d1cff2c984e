"""The fused step of every elementwise optimizer beside a copy loop over the same arrays, one thread."""

from itertools import pairwise

import numpy as np
import pytest
from benchmarks.measure import FULL, medians, show

from distopt.kernels import update
from distopt.kernels.rule import Rule
from distopt.memory.layout import aligned_zeros
from distopt.optimizers.adadelta import ADADELTA
from distopt.optimizers.adagrad import ADAGRAD
from distopt.optimizers.adam import ADAM, AMSGRAD
from distopt.optimizers.adamax import ADAMAX
from distopt.optimizers.ftrl import FTRL
from distopt.optimizers.lion import LION
from distopt.optimizers.nadam import NADAM
from distopt.optimizers.rmsprop import RMSPROP, RMSPROP_CENTERED, RMSPROP_CENTERED_MOMENTUM, RMSPROP_MOMENTUM
from distopt.optimizers.schedule_free_adamw import SCHEDULE_FREE
from distopt.optimizers.sgd import DESCENT, MOMENTUM, NESTEROV

SIZE = 1 << 24 if FULL else 1 << 12
LIMIT = 1.3
RULES = [
    DESCENT,
    MOMENTUM,
    NESTEROV,
    ADAGRAD,
    RMSPROP,
    LION,
    ADAM,
    ADAMAX,
    NADAM,
    ADADELTA,
    FTRL,
    SCHEDULE_FREE,
    RMSPROP_CENTERED,
    RMSPROP_MOMENTUM,
    AMSGRAD,
    RMSPROP_CENTERED_MOMENTUM,
]
pytestmark = pytest.mark.benchmark


def copy_loop(slots):
    """A rule that hands every value on to the next array: the least that a step over as many arrays can do."""
    names = ["p", *(f"slot_{k}" for k in range(slots))]
    body = "\n".join(["first = p", *(f"{a} = {b}" for a, b in pairwise(names))])
    return Rule(f"copy_{slots}", tuple(names[1:]), (), "all", lambda *_: None, f"{body}\n{names[-1]} = first + g")


def step(rule):
    """One call is one step over SIZE float32 parameters."""
    p, g, *slots = (aligned_zeros(SIZE, np.dtype(np.float32)) for _ in range(2 + len(rule.slots)))
    for array in (p, g, *slots):
        array[:] = 0.1
    scalars, spans = [0.01 + 0.1 * (k % 2) for k in range(len(rule.scalars))], np.array([[0, 0, SIZE]])
    return lambda: update(rule, p, g, slots, scalars, spans)


def test_every_rule_beside_a_copy_loop():
    rows = {}
    for slots in sorted({len(rule.slots) for rule in RULES}):
        rivals = {rule.name: rule for rule in RULES if len(rule.slots) == slots}
        copying = copy_loop(slots)
        for name, rule in rivals.items():
            result = medians({"step": step(rule), "copy loop": step(copying)}, repeats=11 if FULL else 3)
            rows[f"{name}, {slots} slots"] = result
    show(f"{SIZE} float32 parameters, 1 thread", "s", rows)
    ratios = {name: result["step"] / result["copy loop"] for name, result in rows.items()}
    assert all(ratio > 0 for ratio in ratios.values())
    if FULL:
        assert {name: ratio for name, ratio in ratios.items() if ratio > LIMIT} == {}
