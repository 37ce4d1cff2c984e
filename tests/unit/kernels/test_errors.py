"""Bad spans and arguments are named before anything is written."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from distopt.errors import InvalidArgumentError
from distopt.kernels import drivers, fused, reference
from distopt.kernels.elementwise import MULTIPLY
from distopt.optimizers.adam import ADAM
from distopt.optimizers.sgd import DESCENT as SGD
from distopt.optimizers.sgd import MOMENTUM

DTYPES = [np.dtype(d) for d in (np.float32, np.float64, np.float16, ml_dtypes.bfloat16)]
BACKENDS = [reference, fused]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("backend", BACKENDS, ids=lambda module: module.__name__.split(".")[-1])
@pytest.mark.parametrize("bad", [[-1, 0, 2], [0, -1, 2], [0, 0, -2], [7, 0, 2], [0, 5, 2]])
def test_a_span_outside_is_an_error_and_changes_nothing(backend: Any, dtype: np.dtype[Any], bad: list[int]) -> None:
    p, g, m = np.ones(8, dtype), np.ones(6, dtype), np.ones(8, dtype)
    with pytest.raises(InvalidArgumentError, match="span 1 of 2"):
        backend.update(MOMENTUM, p, g, [m], [1.0, 1.0], np.array([[0, 0, 1], bad]))
    assert (p == 1).all()
    assert (m == 1).all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("backend", BACKENDS, ids=lambda module: module.__name__.split(".")[-1])
@pytest.mark.parametrize("bad", [[-1, 2], [0, -2], [7, 2], [2, 2**62], [2**62, 2**62]])
def test_a_span_outside_is_an_error_of_every_kernel(backend: Any, dtype: np.dtype[Any], bad: list[int]) -> None:
    flat, spans = np.ones(8, dtype), np.array([[0, 1], bad])
    with pytest.raises(InvalidArgumentError, match="span 1 of 2"):
        backend.square_sums(flat, spans)
    with pytest.raises(InvalidArgumentError, match="span 1 of 2"):
        backend.apply(MULTIPLY, flat, spans, np.full((2, 1), 2.0))
    assert (flat == 1).all()


def test_wrong_arguments_are_named() -> None:
    x, spans = np.ones(4), np.array([[0, 0, 4]])
    with pytest.raises(InvalidArgumentError, match="'adam' takes slots"):
        drivers.update(ADAM, x, x, [x], [1, 1, 1, 1], spans)
    with pytest.raises(InvalidArgumentError, match="add_tree adds one or more rows of 4"):
        drivers.add_tree([np.ones(3)], x)
    for backend in BACKENDS:
        with pytest.raises(InvalidArgumentError, match="got an array of int32"):
            backend.update(SGD, np.ones(4, np.int32), x, [], [1.0], spans)
