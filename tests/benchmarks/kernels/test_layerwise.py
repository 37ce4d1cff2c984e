"""Steps of Lamb, Adafactor and Muon on a few matrices, one thread: distopt and PyTorch."""

import math

import numpy as np
import pytest
from benchmarks.measure import FULL, keep, medians, show, torch_if_installed

from distopt import Variable, optimizers
from distopt.process.thread_limits import limit_threads

SHAPES = [(1024, 1024), (4096, 1024), (1024, 4096)] if FULL else [(16, 8), (8, 16)]
pytestmark = pytest.mark.benchmark


def ours(optimizer):
    """Return a call that is one step; gradients lie where they are summed, as with ``gradient_buffers``."""
    rng = np.random.default_rng(0)
    variables = [Variable(rng.normal(size=shape).astype(np.float32) / 32) for shape in SHAPES]
    optimizer.build(variables)
    pairs = list(zip(optimizer.gradient_buffers(variables), variables, strict=True))
    for buffer, _ in pairs:
        buffer[...] = rng.normal(size=buffer.shape)
    return lambda: optimizer.apply_gradients(pairs)


def parameters(torch):
    """Return PyTorch's parameters, with gradients."""
    torch.manual_seed(0)
    made = [torch.nn.Parameter(torch.randn(shape) / 32) for shape in SHAPES]
    for parameter in made:
        parameter.grad = torch.randn(parameter.shape)
    return made


def lamb_of(torch):
    """Return Lamb's step in few operations of PyTorch, which has none of its own: in place where it can be."""
    state = [(p.detach(), p.grad, *(torch.zeros_like(p) for _ in range(3))) for p in parameters(torch)]
    steps = 0

    def step():
        nonlocal steps
        steps += 1
        for x, g, m, v, u in state:
            m.lerp_(g, 0.1)
            v.mul_(0.999).addcmul_(g, g, value=0.001)
            torch.sqrt(v, out=u).mul_((1 - 0.9**steps) / math.sqrt(1 - 0.999**steps)).add_(1e-7)
            torch.div(m, u, out=u)
            x.sub_(u, alpha=1e-3 * float(x.norm() / u.norm()))

    return step


def muon_of(torch):
    """Return Muon in float32: PyTorch multiplies in bfloat16, and where a processor has none a step takes a minute."""
    state = [(p.detach(), p.grad, torch.zeros_like(p)) for p in parameters(torch)]

    def step():
        for x, g, m in state:
            m.mul_(0.95).add_(g)
            u = g.add(m, alpha=0.95)
            u = u.T if u.shape[0] > u.shape[1] else u
            u = u / (u.norm() + 1e-7)
            for _ in range(5):
                a = u @ u.T
                u = torch.addmm(u, torch.addmm(a, a, a, beta=-4.775, alpha=2.0315), u, beta=3.4445)
            u = u.T if x.shape[0] > x.shape[1] else u
            x.sub_(u, alpha=1e-3 * 0.2 * math.sqrt(max(x.shape)))

    return step


def rivals_of(torch):
    """Return PyTorch's steps, by case and name."""
    if torch is None:
        return {"Lamb": {}, "Adafactor": {}, "Muon": {}}
    adafactor = torch.optim.Adafactor
    return {
        "Lamb": {"torch, in place": lamb_of(torch)},
        "Adafactor": {
            "torch": adafactor(parameters(torch), lr=1e-3, foreach=False).step,
            "torch foreach": adafactor(parameters(torch), lr=1e-3, foreach=True).step,
        },
        "Muon": {"torch, in place": muon_of(torch)},
    }


def test_layerwise_steps_against_torch():
    rows = {}
    with limit_threads():
        for name, rivals in rivals_of(torch_if_installed()).items():
            step = ours(getattr(optimizers, name)())
            rows[name] = medians({"distopt": step} | rivals, repeats=5 if FULL else 3)
    show(f"one step, float32 matrices {SHAPES}, 1 thread", "s", rows)
    keep("layerwise", rows, shapes=SHAPES)
    assert all(seconds > 0 for row in rows.values() for seconds in row.values())
    if FULL:
        assert all(row["distopt"] <= min(row.values()) for row in rows.values())
