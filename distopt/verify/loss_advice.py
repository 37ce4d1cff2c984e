"""Finds mistakes in a loss or in the data, from the first step on one replica and on several.

Gradients of R replicas are *summed*. So the gradients show the mistake (``comparison`` explains ratio and rest):

* ratio R, no rest: every replica averages over its own examples;
* ratio 1/R, no rest: an average over all examples is divided once more;
* ratio about R, some rest, unequal shares: every replica averages over its own examples;
* ratio about 1, some rest, unequal shares: these averages are averaged, and unequal shares count equally;
* g - g₁ is a multiple of the variable, or of its signs: an L2 or L1 term is counted R times;
* otherwise: other data or other random numbers; or, if some gradients are equal, a mistake in a term of the loss.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import zip_longest

from distopt.verify.comparison import Row
from distopt.verify.first_step import Entry, Recording

_CURE = (
    "use a loss of distopt.losses in a loop over distopt.data.batches, or pass global_batch_size=, or sum the loss and "
    "pass items= to the step"
)
_SAID = 3


def before_gradients(one: Recording, many: Recording) -> str:
    """Say why the two steps can't be compared; return "" if they can.

    Args:
        one: the first step of one process.
        many: the first step of several replicas.
    """
    there = f"{many.replicas} replicas"
    lists = [[_describe(entry) for entry in recording.entries] for recording in (one, many)]
    for here, elsewhere in zip_longest(*lists, fillvalue="no variable"):
        if here != elsewhere:
            return (
                f"the first steps are over different variables: {here} in one process, where {there} have "
                f"{elsewhere}; build the same model on any number of replicas"
            )
    counts = (
        ("examples", _total(one.examples), _total(many.examples)),
        ("items", _total(one.items), _total(many.items)),
    )
    for what, before, after in counts:
        if before != after:
            return (
                f"one process takes {before} {what} in its first step and {there} together take {after}: the global "
                "batch must not depend on the number of replicas. Take it from distopt.data.batches(..., "
                "global_batch_size=...), which gives every replica its share"
            )
    pairs = list(zip(one.entries, many.entries, strict=True))
    other = [a.name for a, b in pairs if a.parameter.tobytes() != b.parameter.tobytes()]
    if other:
        return (
            f"the parameters themselves differ before the first step, first {other[0]!r} ({len(other)} of "
            f"{len(pairs)} variables): seed the initialisation"
        )
    for a, b in pairs:
        if (a.gradient is None) != (b.gradient is None):
            has, lacks = ("on " + there, "in one process") if a.gradient is None else ("in one process", "on " + there)
            return (
                f"{a.name!r} has a gradient {has} and none {lacks}: the loss must depend on the same variables "
                "on any number of replicas"
            )
    return ""


def about_gradients(one: Recording, many: Recording, rows: Sequence[Row]) -> list[str]:
    """Say what makes gradients differ; return no sentences if they do not differ.

    Args:
        one: the first step of one process.
        many: the first step of several replicas.
        rows: the comparison of the gradients of both.
    """
    wrong = [row for row in rows if not row.is_equal]
    broken = [row for row in wrong if not row.is_finite]
    if not wrong:
        return []
    if broken:
        return [_not_finite(broken[0], many)]
    telling = [row for row in rows if not math.isnan(row.ratio)] or wrong
    common = _common_ratio(telling, many.replicas) or _unequal_shares(telling, many)
    return [common] if common else list(_one_by_one(wrong, rows, many.replicas))


def _common_ratio(rows: Sequence[Row], replicas: int) -> str:
    ratio = rows[0].ratio
    if not all(row.is_proportional and math.isclose(row.ratio, ratio, rel_tol=1e-3) for row in rows):
        return ""
    several = f" (and so are those of all {len(rows)} variables)" if len(rows) > 1 else ""
    said = f"{_gradient(rows[0], replicas)} is {_times(ratio)} that of one process{several}"
    if math.isclose(ratio, replicas, rel_tol=1e-3):
        return f"{said}: the loss is a local mean, and gradients are summed over replicas; {_CURE}"
    if math.isclose(ratio * replicas, 1, rel_tol=1e-3):
        return (
            f"{said}: it is divided twice, by the global batch and by the number of replicas; gradients are summed, so "
            "leave the division by the replicas out"
        )
    return f"{said}: something is divided by a count that depends on the number of replicas; {_CURE}"


def _unequal_shares(rows: Sequence[Row], many: Recording) -> str:
    if len({share for share in many.examples if share is not None}) > 1:
        for times, what in ((many.replicas, "a local mean"), (1, "a mean of local means")):
            if all(abs(row.ratio / times - 1) < 0.3 and row.rest < 0.6 for row in rows):
                return (
                    f"{_gradient(rows[0], many.replicas)} is about {_times(rows[0].ratio)} that of one process, and "
                    f"not exactly: the replicas have {_sequence(many.examples)} examples, and the loss seems to be "
                    f"{what}, which weighs unequal shares alike; {_CURE}"
                )
    return ""


def _one_by_one(wrong: Sequence[Row], rows: Sequence[Row], replicas: int) -> Iterator[str]:
    """Yield a sentence about each gradient that differs, for the first few of them."""
    scale = "pass terms that are the same on all replicas through distopt.losses.scale_regularization_loss"
    has_equal = any(row.is_equal and not math.isnan(row.ratio) for row in rows)
    for row in wrong[:_SAID]:
        said = f"{_gradient(row, replicas)} differs from that of one process by"
        if row.term:
            what = "the variable itself" if row.term == "L2" else "its signs"
            yield f"{said} a multiple of {what}: an {row.term} term of the loss is counted {replicas} times; {scale}"
        elif has_equal:
            yield (
                f"{said} {row.difference:.2g}, relatively, and gradients of other variables are equal: a term of the "
                f"loss with this variable is counted in another way; {scale}"
            )
        else:
            yield (
                f"{said} {row.difference:.2g}, relatively, and is no multiple of it: the replicas see other data than "
                "one process (take every batch from distopt.data.batches), or draw other random numbers (dropout, "
                "augmentation)"
            )
    if len(wrong) > _SAID:
        yield f"so it is, in one way or another, with {len(wrong) - _SAID} variables more"


def _not_finite(row: Row, many: Recording) -> str:
    if not row.was_finite:
        return f"the gradient of {row.name!r} is not finite in one process already: there is nothing to compare with"
    empty = [replica for replica, share in enumerate(many.examples) if share == 0]
    why = f"replica {empty[0]} has no examples, and a mean over none is NaN; " if empty else ""
    return f"{_gradient(row, many.replicas)} is not finite, that of one process is: {why}{_CURE}"


def _gradient(row: Row, replicas: int) -> str:
    return f"the gradient of {row.name!r} on {replicas} replicas"


def _times(ratio: float) -> str:
    return f"{ratio:.2f} times" if 0.1 <= abs(ratio) < 1e4 else f"{ratio:.3g} times"


def _describe(entry: Entry) -> str:
    return f"{entry.name!r} {entry.dtype}{list(entry.parameter.shape)}"


def _sequence(counts: Sequence[int | None]) -> str:
    return ", ".join(map(str, counts[:8])) + (", ..." if len(counts) > 8 else "")


def _total(counts: Sequence[float | None]) -> str:
    known = [count for count in counts if count is not None]
    return f"{sum(known):g}" if known else "an unknown number of"
