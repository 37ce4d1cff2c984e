"""Fused Adam on one large variable, one thread: distopt, its NumPy reference, PyTorch's fused Adam."""

import numpy as np
import pytest
from benchmarks.measure import FULL, medians, show, torch_if_installed

from distopt.kernels import reference, update
from distopt.memory.layout import aligned_zeros
from distopt.optimizers.adam import ADAM

SIZE = 1 << 24 if FULL else 1 << 12
pytestmark = pytest.mark.benchmark


def adam(run):
    """One call is one step over SIZE parameters that the caller can't reuse."""
    p, g, m, v = (aligned_zeros(SIZE, np.dtype(np.float32)) for _ in range(4))  # the memory of an optimizer
    for array, value in ((p, 0.1), (g, 1e-3), (m, 0.1), (v, 0.1)):
        array[:] = value
    spans = np.array([[0, 0, SIZE]])
    return lambda: run(ADAM, p, g, [m, v], [1e-3, 0.1, 0.001, 1e-7], spans)


def test_adam_against_torch():
    rivals = {"distopt": adam(update), "NumPy reference": adam(reference.update)}
    torch = torch_if_installed()
    if torch is not None:
        parameter = torch.nn.Parameter(torch.full((SIZE,), 0.1))
        parameter.grad = torch.full((SIZE,), 1e-3)
        rivals["torch fused Adam"] = torch.optim.Adam([parameter], lr=1e-3, eps=1e-7, fused=True).step
    result = medians(rivals, repeats=11 if FULL else 3)
    show(f"Adam, {SIZE} float32 parameters, 1 thread", "s", {"one step": result})
    assert all(seconds > 0 for seconds in result.values())
    if FULL:
        assert result["distopt"] <= result["torch fused Adam"]
