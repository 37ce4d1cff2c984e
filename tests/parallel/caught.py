"""What the parallel tests share: errors as values, an odd replica, and the tree of summation in its plainest form."""

import warnings
from typing import NamedTuple

import numpy as np

import distopt
from distopt.arrays import wide_dtype

ODD = 1
"""The replica that does something else than the others."""


class Failure(NamedTuple):
    """An exception, in a form that travels between processes."""

    kind: type
    text: str


def caught(fn, *args):
    """The failure of a function that must fail."""
    try:
        result = fn(*args)
    except Exception as error:
        return Failure(type(error), str(error))
    raise AssertionError(f"expected an exception, got {result!r}")


def is_odd():
    return distopt.replica_index() == ODD


def tree_sum(rows):
    """The sum of one array per replica as DESIGN defines it: the left subtree holds a power of two of them."""
    return _wide_tree_sum([row.astype(wide_dtype(row.dtype)) for row in rows]).astype(rows[0].dtype)


def _wide_tree_sum(rows):
    if len(rows) == 1:
        return rows[0]
    left = 1
    while 2 * left < len(rows):
        left *= 2
    return _wide_tree_sum(rows[:left]) + _wide_tree_sum(rows[left:])


def rough_numbers(replica, size, dtype, seed=0):
    """Numbers of very different sizes, whose sum shows the order of summation in its last bits."""
    rng = np.random.default_rng([seed, replica])
    exponents = rng.integers(-6, 7, size)
    return (rng.normal(size=size) * 2.0**exponents).astype(dtype)


def assert_same_bits(actual, expected):
    assert actual.dtype == expected.dtype
    assert actual.shape == expected.shape
    np.testing.assert_array_equal(
        np.ascontiguousarray(actual).reshape(-1).view(np.uint8),
        np.ascontiguousarray(expected).reshape(-1).view(np.uint8),
    )


def warned(replicas, fn):
    """The results of a function on all replicas, and what was warned of on any."""
    with warnings.catch_warnings(record=True) as caught_here:
        warnings.simplefilter("always")
        results = replicas(fn)
    messages = [str(warning.message) for warning in caught_here]
    if replicas.transport in ("mpi", "ray"):
        messages = [message for texts in replicas(lambda: messages) for message in texts]
    return results, messages
