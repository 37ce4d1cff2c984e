"""Finds the first difference of two runs, or of one run's replicas: the step, the variable and the replica."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest

from distopt.telemetry.receipt_reader import Run, Step, Variables

_ROUNDING = 1e-5
"""A relative difference of norms: a smaller one comes from the order of summation alone."""


def replicas_that_part(run: Run) -> str:
    """Say where the parameters of one run's replicas begin to differ; return "" if they never do.

    Args:
        run: the run, as it was read.
    """
    for step in run.steps():
        for replica, mine in enumerate(step):
            names = _differing(mine.variables, mine.parameters, step[0].parameters)
            if names:
                return (
                    f"{run.name}: step {mine.number}: parameter {_first(names)} after the update differs between "
                    f"replicas 0 and {replica}: the replicas of this run are no longer equal"
                )
    return ""


def runs_that_part(a: Run, b: Run) -> str:
    """Say in which step, in which variable and on which replica two runs begin to differ; return "" if they never do.

    Args:
        a: one run.
        b: the other.
    """
    steps_a, steps_b = list(a.steps()), list(b.steps())
    for k, (one, other) in enumerate(zip(steps_a, steps_b, strict=False)):
        found = _difference(a.name, one, b.name, other)
        if found:
            before = "everything before is equal" if k else "it is the first: initial values, data or code differ"
            return f"step {one[0].number}: {found} ({before})"
    if len(steps_a) == len(steps_b):
        return ""
    (short, shorter), (long, longer) = sorted([(len(steps_a), a.name), (len(steps_b), b.name)])
    return f"{shorter} ends after {short} steps, {longer} after {long}: all steps that both have are equal"


def _difference(name: str, one: Sequence[Step], other_name: str, other: Sequence[Step]) -> str:
    """Say what differs first in one step; return "" if nothing does."""
    mine, its = one[0], other[0]
    if mine.variables != its.variables:
        a, b = _first_variables(mine.variables, its.variables)
        return f"the variables differ: {a} in {name}, {b} in {other_name}"
    if mine.number != its.number:
        return f"{name} does step {mine.number} where {other_name} does step {its.number}"
    if mine.replicas != its.replicas:
        return _difference_of_sizes(name, mine, other_name, its)
    pairs = list(zip(one, other, strict=True))
    for replica, (left, right) in enumerate(pairs):
        if left.items != right.items:
            return f"replica {replica} has {left.items} items in {name} and {right.items} in {other_name}"
    for replica, (left, right) in enumerate(pairs):
        names = _differing(left.variables, left.gradients, right.gradients)
        if names:
            also = [r for r, (a, b) in enumerate(pairs) if r > replica and a.gradients != b.gradients]
            rest = f", as do gradients on {', '.join(map(str, also))}" if also else ""
            return f"the local gradient of {_first(names)} on replica {replica} differs{rest}"
    return _difference_after_sum(name, other_name, pairs)


def _difference_after_sum(name: str, other_name: str, pairs: Sequence[tuple[Step, Step]]) -> str:
    for replica, (left, right) in enumerate(pairs):
        for what, a, b in (
            ("the items of all replicas", left.total_items, right.total_items),
            ("the norm of the summed gradients", left.gradient_norm, right.gradient_norm),
        ):
            if a != b:
                return (
                    f"local gradients are equal, but {what} on replica {replica} is {a} in {name} and {b} in "
                    f"{other_name}"
                )
    for replica, (left, right) in enumerate(pairs):
        names = _differing(left.variables, left.parameters, right.parameters)
        if names:
            return f"gradients are equal, but parameter {_first(names)} after the update differs on replica {replica}"
    return ""


def _difference_of_sizes(name: str, mine: Step, other_name: str, its: Step) -> str:
    """Compare a step on different numbers of replicas, but only in what does not depend on that number."""
    if mine.total_items != its.total_items:
        return f"all replicas together have {mine.total_items} items in {name} and {its.total_items} in {other_name}"
    names = _differing(mine.variables, mine.parameters, its.parameters)
    if not names:
        return ""
    a, b = float(mine.gradient_norm), float(its.gradient_norm)
    apart = abs(a - b) / max(abs(a), abs(b)) if a != b else 0.0
    judgement = "as rounding does" if apart < _ROUNDING else "which is more than rounding does"
    return (
        f"parameter {_first(names)} after the update differs; but {name} has {mine.replicas} replicas and {other_name} "
        f"{its.replicas}, and only the same number gives the same bits, since sums are rounded in another order. The "
        f"norms of the summed gradients differ by {apart:.1e}, relatively, {judgement}"
    )


def _differing(variables: Variables, one: Sequence[str | None], other: Sequence[str | None]) -> list[str]:
    return [name for (name, *_), a, b in zip(variables, one, other, strict=True) if a != b]


def _first(names: Sequence[str]) -> str:
    return repr(names[0]) + (f" (and of {len(names) - 1} more)" if len(names) > 1 else "")


def _first_variables(one: Variables, other: Variables) -> tuple[str, str]:
    """Return the first variable in which two lists differ, as each list has it."""
    a, b = next((a, b) for a, b in zip_longest(one, other) if a != b)
    said = ["no more" if v is None else f"{v[0]!r} {v[1]}{list(v[2])}" for v in (a, b)]
    return said[0], said[1]
