"""A whole step over many small variables: apply_gradients against clip_grad_norm_ and fused Adam of PyTorch."""

import numpy as np
import pytest
from benchmarks.measure import FULL, medians, show, torch_if_installed

import distopt

COUNT, SIZE = 200, 1000
pytestmark = pytest.mark.benchmark


def distopt_step():
    variables = [distopt.Variable(np.full(SIZE, 0.1, np.float32)) for _ in range(COUNT)]
    gradients = [np.full(SIZE, 1e-3, np.float32) for _ in range(COUNT)]
    optimizer = distopt.optimizers.Adam(1e-3, global_clipnorm=0.1)
    return lambda: optimizer.apply_gradients(zip(gradients, variables, strict=True))


def torch_step(torch, foreach):
    parameters = [torch.nn.Parameter(torch.full((SIZE,), 0.1)) for _ in range(COUNT)]
    for parameter in parameters:
        parameter.grad = torch.full((SIZE,), 1e-3)
    optimizer = torch.optim.Adam(parameters, lr=1e-3, eps=1e-7, fused=True)

    def step():
        torch.nn.utils.clip_grad_norm_(parameters, 0.1, foreach=foreach)
        optimizer.step()

    return step


def test_two_hundred_variables():
    rivals = {"distopt": distopt_step()}
    torch = torch_if_installed()
    if torch is not None:
        rivals |= {"torch": torch_step(torch, False), "torch foreach": torch_step(torch, True)}
    result = medians(rivals, repeats=51 if FULL else 3, inner=10)
    show(f"global_clipnorm and Adam, {COUNT} variables of {SIZE}, 1 replica", "s", {"one step": result})
    assert all(seconds > 0 for seconds in result.values())
    if FULL:
        assert result["distopt"] <= 0.5 * min(result["torch"], result["torch foreach"])
