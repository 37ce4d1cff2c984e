"""The fused kernels equal the NumPy reference bit for bit; the reference equals plain Python."""

from __future__ import annotations

import importlib
import math
import pkgutil
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distopt import optimizers
from distopt.kernels import Rule, decayed, drivers, fused, mastered, reference
from distopt.kernels.elementwise import CLIP, DECAY, DIVIDE, MULTIPLY, SCALE, Operation
from distopt.optimizers.adam import ADAM, AMSGRAD
from distopt.optimizers.ftrl import FTRL, FTRL_POWER
from distopt.optimizers.sgd import DESCENT as SGD
from distopt.optimizers.sgd import MOMENTUM, NESTEROV

Array = npt.NDArray[Any]

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
DTYPES = [np.dtype(np.float32), np.dtype(np.float64), np.dtype(np.float16), BFLOAT16]
BACKENDS = [reference, fused]


def rules_of_optimizers() -> list[Rule]:
    modules = [
        importlib.import_module(f"distopt.optimizers.{m.name}") for m in pkgutil.iter_modules(optimizers.__path__)
    ]
    rules = {value.name: value for module in modules for value in vars(module).values() if isinstance(value, Rule)}
    return sorted(rules.values(), key=lambda rule: rule.name)


SPELLED_OUT = [SGD, MOMENTUM, NESTEROV, ADAM, AMSGRAD]
RULES = [*rules_of_optimizers(), decayed(MOMENTUM), mastered(MOMENTUM)]
RULES.remove(FTRL_POWER)  # the powers of NumPy and of Numba are not the same bits
RULES_AND_DTYPES = [(rule, dtype) for rule in RULES for dtype in (DTYPES if rule in SPELLED_OUT else DTYPES[:1])]
"""All dtypes for a few rules: how a rule becomes a kernel of another dtype does not depend on the rule."""

parity = settings(deadline=None, max_examples=6)
seeds = st.integers(0, 2**32 - 1)
numbers = st.one_of(
    st.sampled_from([0.0, -0.0, 1.0, 1e-45, math.inf, math.nan]),
    st.floats(-1e4, 1e4),
)


def values(seed: int, size: int, dtype: np.dtype[Any]) -> Array:
    """Return ordinary values, any bits at all, and the values that kernels stumble over, mixed."""
    random = np.random.default_rng(seed)
    info = ml_dtypes.finfo(dtype)
    edges = [0.0, -0.0, 1.0, np.inf, -np.inf, np.nan, info.max, -info.max, info.tiny, info.smallest_subnormal]
    bits = random.integers(0, 256, size * dtype.itemsize, np.uint8).view(dtype)
    kind = random.integers(0, 3, size)
    with np.errstate(all="ignore"):
        special = random.choice(np.array(edges, dtype), size) if size else bits
        return np.where(kind == 0, bits, np.where(kind == 1, special, random.normal(size=size).astype(dtype)))


@dataclass
class Cut:
    """Spans of two layouts that have gaps and lie in different orders."""

    spans: npt.NDArray[np.int64]
    size: int
    gradient_size: int


@st.composite
def cuts(draw: st.DrawFn) -> Cut:
    lengths = draw(st.lists(st.one_of(st.integers(0, 70), st.integers(4_000, 20_000)), min_size=1, max_size=6))
    gap, gradient_gap = draw(st.integers(0, 9)), draw(st.integers(0, 9))
    starts = np.cumsum([0, *(n + gap for n in lengths)])
    order = draw(st.permutations(range(len(lengths))))
    gradient_starts, at = [0] * len(lengths), 0
    for k in order:
        gradient_starts[k] = at
        at += lengths[k] + gradient_gap
    spans = np.stack([starts[:-1], gradient_starts, lengths], axis=1).astype(np.int64)
    return Cut(spans, int(starts[-1]), at)


def unsigned(array: Array) -> Array:
    return array.view(f"u{array.dtype.itemsize}")


def assert_same_bits(a: Array, b: Array) -> None:
    """NaN must lie in the same places, its payload may differ; all else is equal to the bit."""
    assert a.dtype == b.dtype
    with np.errstate(invalid="ignore"):  # ml_dtypes: signalling NaN
        nan = np.isnan(a)
        np.testing.assert_array_equal(nan, np.isnan(b))
    np.testing.assert_array_equal(unsigned(a)[~nan], unsigned(b)[~nan])


def outside(cut: Cut) -> npt.NDArray[np.bool_]:
    mask = np.ones(cut.size, bool)
    for start, _, length in cut.spans:
        mask[start : start + length] = False
    return mask


@pytest.mark.parametrize(("rule", "dtype"), RULES_AND_DTYPES, ids=lambda value: value.name)
@parity
@given(cut=cuts(), seed=seeds, scalars=st.lists(numbers, min_size=8, max_size=8))
def test_fused_update_equals_reference(
    rule: Rule, dtype: np.dtype[Any], cut: Cut, seed: int, scalars: list[float]
) -> None:
    state = [values(seed + k, cut.size, dtype) for k in range(1 + len(rule.slots))]
    gradient = values(seed + 9, cut.gradient_size, dtype)
    gradient.flags.writeable = False
    results = []
    for backend in BACKENDS:
        p, *slots = (array.copy() for array in state)
        backend.update(rule, p, gradient, slots, scalars[: len(rule.scalars)], cut.spans)
        results.append([p, *slots])
    untouched = outside(cut)
    for before, expected, got in zip(state, *results, strict=True):
        assert_same_bits(expected, got)
        np.testing.assert_array_equal(unsigned(before)[untouched], unsigned(got)[untouched])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@parity
@given(seed=seeds, size=st.integers(1, 40_000), data=st.data())
def test_no_cut_of_the_work_changes_the_result(dtype: np.dtype[Any], seed: int, size: int, data: st.DataObject) -> None:
    limits = sorted({0, size, *data.draw(st.lists(st.integers(0, size), max_size=9))})
    pieces = np.array([[a, a, b - a] for a, b in pairwise(limits)])
    gradient, *state = (values(seed + k, size, dtype) for k in range(4))
    results = []
    for spans in (np.array([[0, 0, size]]), pieces):
        p, m, v = (array.copy() for array in state)
        fused.update(ADAM, p, gradient, [m, v], [0.01, 0.1, 0.001, 1e-7], spans)
        results.append((p, m, v))
    for whole, cut in zip(*results, strict=True):
        assert_same_bits(whole, cut)


def python_step(rule: Rule, p: float, g: float, slots: list[float], scalars: list[float]) -> list[float]:
    """One element in Python's doubles, from the formulas."""
    if rule is SGD:
        return [p - scalars[0] * g]
    if rule in (MOMENTUM, NESTEROV):
        learning_rate, mu = scalars
        a = mu * slots[0] - learning_rate * g
        return [p + (a if rule is MOMENTUM else mu * a - learning_rate * g), a]
    alpha, c1, c2, epsilon = scalars
    m = slots[0] + (g - slots[0]) * c1
    v = slots[1] + (g * g - slots[1]) * c2
    vhat = [max(slots[2], v)] if rule is AMSGRAD else []
    return [p - alpha * m / (math.sqrt((vhat or [v])[0]) + epsilon), m, v, *vhat]


@pytest.mark.parametrize("backend", BACKENDS, ids=lambda module: module.__name__.split(".")[-1])
@pytest.mark.parametrize("rule", SPELLED_OUT, ids=lambda rule: rule.name)
def test_update_is_the_formula(rule: Rule, backend: Any) -> None:
    random = np.random.default_rng(1)
    g, *state = np.abs(random.normal(size=(2 + len(rule.slots), 50)))
    scalars = [0.01, 0.9, 0.3, 1e-3][: len(rule.scalars)]
    expected = [
        python_step(rule, p, gradient, slots, scalars)
        for gradient, (p, *slots) in zip(g.tolist(), np.array(state).T.tolist(), strict=True)
    ]
    state = [array.copy() for array in state]
    backend.update(rule, state[0], g, state[1:], scalars, np.array([[0, 0, 50]]))
    np.testing.assert_array_equal(np.array(state).T, expected)


def test_amsgrad_keeps_nan_as_numpy_maximum_does() -> None:
    p, g, m, vhat = np.zeros(3), np.zeros(3), np.zeros(3), np.array([np.nan, 1.0, 2.0])
    v = np.array([1.0, np.nan, 1.0])
    expected = np.maximum(v, vhat)
    fused.update(AMSGRAD, p, g, [m, v, vhat], [1e-3, 0.1, 0.0, 1e-7], np.array([[0, 0, 3]]))
    np.testing.assert_array_equal(vhat, expected)


def test_ftrl_with_powers_is_ftrl_with_roots_to_rounding() -> None:
    state = np.abs(np.random.default_rng(2).normal(size=(4, 500))).astype(np.float32)
    results = []
    for rule, backend in ((FTRL, fused), (FTRL_POWER, fused), (FTRL_POWER, reference)):
        g, p, n, z = state.copy()
        backend.update(rule, p, g, [n, z], [0.5, 0.1, 0.2, 0.3, 0.5][: len(rule.scalars)], np.array([[0, 0, 500]]))
        results.append([p, n, z])
    np.testing.assert_allclose(results[1], results[0], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(results[2], results[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("operation", [SCALE, MULTIPLY, DIVIDE, DECAY, CLIP], ids=lambda operation: operation.name)
@parity
@given(cut=cuts(), seed=seeds, data=st.data())
def test_fused_operation_equals_reference(
    operation: Operation, dtype: np.dtype[Any], cut: Cut, seed: int, data: st.DataObject
) -> None:
    count = len(cut.spans) * len(operation.scalars)
    row = data.draw(st.lists(st.one_of(numbers, st.just(1e300)), min_size=count, max_size=count))
    table = np.array(row).reshape(len(cut.spans), -1)
    flat, spans = values(seed, cut.size, dtype), np.ascontiguousarray(cut.spans[:, [0, 2]])
    expected, got = flat.copy(), flat.copy()
    reference.apply(operation, expected, spans, table)
    fused.apply(operation, got, spans, table)
    assert_same_bits(expected, got)
    np.testing.assert_array_equal(unsigned(flat)[outside(cut)], unsigned(got)[outside(cut)])


def test_scale_multiplies_first_and_clip_is_numpys() -> None:
    x = values(3, 500, np.dtype(np.float32))
    spans = np.array([[0, 500]])
    scaled, clipped = x.copy(), x.copy()
    drivers.scale(scaled, spans, 0.3, 0.7)
    drivers.clip(clipped, spans, 0.5)
    with np.errstate(all="ignore"):
        assert_same_bits(scaled, x * np.float32(0.3) / np.float32(0.7))
        assert_same_bits(clipped, np.clip(x, np.float32(-0.5), np.float32(0.5)))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("count", range(1, 21))
def test_add_tree_is_the_tree_of_the_design(count: int, dtype: np.dtype[Any]) -> None:
    size = 17_001 if count in (2, 9, 20) else 203
    rows = [values(count + 100 * r, size, dtype) for r in range(count)]
    for row in rows:
        row.flags.writeable = False
    wide = [row.astype(np.float32) if dtype.itemsize == 2 else row for row in rows]

    def node(first: int, width: int) -> Array:
        if width == 1:
            return wide[first]
        left, right = node(first, width // 2), first + width // 2
        return left + node(right, width // 2) if right < count else left

    with np.errstate(all="ignore"):
        expected = node(0, 32).astype(dtype)
    for backend in BACKENDS:
        out = np.empty(size, dtype)
        backend.add_tree(rows, out)
        assert_same_bits(out, expected)
        shared = [row.copy() for row in rows]
        backend.add_tree(shared, shared[count // 2])
        assert_same_bits(shared[count // 2], expected)
    if dtype.itemsize == 2:
        drivers.add_tree(wide, out)
        assert_same_bits(out, expected)


def python_square_sum(x: list[float]) -> float:
    """Blocks, lanes and tree, spelled out in Python's doubles."""
    blocks = []
    for start in range(0, len(x), 4096):
        lanes = [0.0] * 128
        for i, value in enumerate(x[start : start + 4096]):
            lanes[i % 128] += value * value
        while len(lanes) > 1:
            half = len(lanes) // 2
            lanes = [lanes[i] + lanes[half + i] for i in range(half)]
        blocks.append(lanes[0])
    return python_tree(blocks)


def python_tree(terms: list[float]) -> float:
    while len(terms) > 1:
        pairs = [terms[i] + terms[i + 1] for i in range(0, len(terms) - 1, 2)]
        terms = pairs + terms[2 * len(pairs) :]
    return terms[0] if terms else 0.0


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("backend", BACKENDS, ids=lambda module: module.__name__.split(".")[-1])
def test_square_sums_are_as_written(backend: Any, dtype: np.dtype[Any]) -> None:
    lengths = [0, 1, 127, 128, 129, 4095, 4096, 4097, 3 * 4096, 7 * 4096 + 5, 50_000]
    spans = np.array([[11, length] for length in lengths])
    flat = np.random.default_rng(5).normal(size=60_000).astype(dtype)
    expected = [python_square_sum(flat[11 : 11 + length].astype(np.float64).tolist()) for length in lengths]
    assert backend.square_sums(flat, spans).tolist() == expected


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@parity
@given(cut=cuts(), seed=seeds)
def test_fused_square_sums_equal_reference(dtype: np.dtype[Any], cut: Cut, seed: int) -> None:
    flat, spans = values(seed, cut.size, dtype), np.ascontiguousarray(cut.spans[:, [0, 2]])
    assert_same_bits(reference.square_sums(flat, spans), fused.square_sums(flat, spans))


@parity
@given(size=st.integers(0, 300), seed=seeds)
def test_tree_sum_adds_neighbours(size: int, seed: int) -> None:
    terms = np.random.default_rng(seed).normal(size=size)
    before = terms.copy()
    assert fused.tree_sum(terms) == reference.tree_sum(terms) == python_tree(terms.tolist())
    np.testing.assert_array_equal(terms, before)
