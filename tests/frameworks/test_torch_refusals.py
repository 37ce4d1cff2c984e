"""What the PyTorch adapter refuses, and what it says."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from frameworks.torch_cases import FEATURES, backward, data, mlp, share, train, values  # noqa: E402
from torch import nn  # noqa: E402

import distopt  # noqa: E402
from distopt.adapters.torch import DistributedOptimizer, broadcast_buffers  # noqa: E402
from distopt.errors import InvalidArgumentError, ReplicaFailedError  # noqa: E402
from distopt.optimizers import SGD, Adam  # noqa: E402

# Built, not written: it lies otherwise than its shape says.
TRANSPOSED = nn.Parameter(torch.zeros(3, 2).t())


@pytest.mark.parametrize(
    ("optimizer", "message"),
    [
        (lambda p: torch.optim.Adam(p, 0.5), r"torch.optim.Adam: pass distopt.optimizers.Adam\(learning_rate=0.5\)"),
        (lambda p: torch.optim.SGD(p, 0.5), r"torch.optim.SGD: pass distopt.optimizers.SGD\(learning_rate=0.5\)"),
        (lambda p: torch.optim.Adam, r"torch.optim.Adam: pass distopt.optimizers.Adam"),
        (
            lambda p: torch.optim.Rprop(p),
            r"torch.optim.Rprop, which has no counterpart.*distopt.optimizers \(SGD, .*Adam",
        ),
        (lambda p: Adam, "received the class Adam"),
        (lambda p: "adam", "received 'adam'"),
    ],
)
def test_an_optimizer_of_something_else(optimizer, message):
    model = mlp()
    with pytest.raises(InvalidArgumentError, match=message):
        DistributedOptimizer(model.named_parameters(), optimizer(model.parameters()))


@pytest.mark.parametrize(
    ("named", "message"),
    [
        (mlp(), "received Sequential where"),
        (mlp().parameters(), r"pass model.named_parameters\(\)"),
        ([], "none of the 0 parameters"),
        (nn.Linear(2, 2).requires_grad_(False).named_parameters(), "none of the 2 parameters requires a gradient"),
        (
            [("w", nn.Parameter(torch.zeros(2))), ("w", nn.Parameter(torch.zeros(2)))],
            "two parameters have the name 'w'",
        ),
        ([("w", TRANSPOSED)], r"'w' is not contiguous \(shape \(2, 3\)"),
        ([("w", nn.Parameter(torch.zeros(2, device="meta")))], r"'w' lies on meta.*model.cpu\(\)"),
        (
            [("w", nn.Parameter(torch.zeros(2, dtype=torch.complex64)))],
            "'w' has dtype torch.complex64: optimizers train",
        ),
        ([("w", torch.zeros(2, requires_grad=True) * 2)], "'w' was computed from other tensors"),
        (nn.LazyLinear(3).named_parameters(), "'bias' has no shape yet: call the model once"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_parameters_that_can_not_be_trained(named, message):
    with pytest.raises(InvalidArgumentError, match=message):
        DistributedOptimizer(named, SGD(0.1))


def test_an_optimizer_of_other_variables():
    inner = SGD(0.1)
    train(mlp(), inner, steps=1)
    with pytest.raises(InvalidArgumentError, match="was built for"):
        DistributedOptimizer(mlp().named_parameters(), inner)


def test_a_closure():
    optimizer = DistributedOptimizer(mlp().named_parameters(), SGD(0.1))
    with pytest.raises(InvalidArgumentError, match=r"call loss.backward\(\), then step\(\)"):
        optimizer.step(lambda: 0.0)


def test_a_step_without_gradients():
    optimizer = DistributedOptimizer(mlp().named_parameters(), SGD(0.1))
    with pytest.raises(InvalidArgumentError, match="No gradients provided for any variable"):
        optimizer.step()


@pytest.mark.parametrize(
    "replace", [lambda model: model.double(), lambda model: setattr(model[0].bias, "data", torch.zeros(8))]
)
def test_parameters_that_have_moved(replace):
    model = mlp()
    optimizer = DistributedOptimizer(model.named_parameters(), SGD(0.1))
    replace(model)
    with pytest.raises(InvalidArgumentError, match=r"was replaced .*param.data.copy_\(value\)"):
        optimizer.step()


def test_parameters_that_are_frozen_no_more():
    model = mlp()
    model[0].requires_grad_(False)
    optimizer = DistributedOptimizer(model.named_parameters(), SGD(0.1))
    model[0].requires_grad_(True)
    backward(model, *data())
    with pytest.raises(InvalidArgumentError, match=r"'0.weight' was frozen .* make another optimizer"):
        optimizer.step()


def test_gradients_changed_in_place():
    model = mlp()
    optimizer = DistributedOptimizer(model.named_parameters(), SGD(0.1))
    backward(model, *data())
    torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1)
    with pytest.raises(InvalidArgumentError, match=r"changed in place between backward.*global_clipnorm="):
        optimizer.step()


def test_a_gradient_of_ones_own_is_taken():
    model = mlp()
    before = values(model)
    optimizer = DistributedOptimizer(model.named_parameters(), SGD(1.0))
    backward(model, *data())
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    for name, value in values(model).items():
        np.testing.assert_allclose(value, before[name] - 1, rtol=1e-6)


def test_sparse_gradients_that_are_no_rows():
    model = nn.Linear(2, 2, bias=False)
    optimizer = DistributedOptimizer(model.named_parameters(), SGD(0.1))
    model.weight.grad = torch.eye(2).to_sparse()
    with pytest.raises(InvalidArgumentError, match=r"'weight' has the layout torch.sparse_coo"):
        optimizer.step()


def test_a_buffer_on_another_device():
    model = nn.BatchNorm1d(3, device="meta")
    with pytest.raises(InvalidArgumentError, match="broadcast_buffers: 'running_mean' is no dense CPU tensor"):
        broadcast_buffers(model)


def test_replicas_with_different_models(several):
    def run():
        with pytest.raises(distopt.errors.CollectiveMismatchError, match=r"weight: torch.float32\[2, 3\]"):
            DistributedOptimizer(nn.Linear(3, 2 + min(1, distopt.replica_index())).named_parameters(), SGD(0.1))

    several(run)


def test_the_others_are_told(several):
    def run():
        model = mlp()
        optimizer = DistributedOptimizer(model.named_parameters(), SGD(0.1))
        backward(model, *map(share, data()))
        if distopt.replica_index() == 1:
            model.double()
        error = InvalidArgumentError if distopt.replica_index() == 1 else ReplicaFailedError
        with pytest.raises(error, match="was replaced"):
            optimizer.step()

    several(run)


@pytest.fixture
def streaming(monkeypatch):
    monkeypatch.setenv("DISTOPT_BUCKET_BYTES", "64")


def test_a_second_backward_after_gradients_were_sent(several, streaming):
    def run():
        model = mlp()
        optimizer = DistributedOptimizer(model.named_parameters(), SGD(0.1))
        backward(model, *data())
        error = InvalidArgumentError if distopt.replica_index() == 0 else ReplicaFailedError
        call = (lambda: backward(model, *data())) if distopt.replica_index() == 0 else optimizer.step
        with pytest.raises(error, match=r"called a second time.*with optimizer.no_sync\(\)"):
            call()

    several(run)


def test_gradients_thrown_away_after_they_were_sent(several, streaming):
    def run():
        model = mlp()
        optimizer = DistributedOptimizer(model.named_parameters(), SGD(0.1))
        backward(model, torch.ones(1, FEATURES), torch.zeros(1, dtype=torch.int64))
        optimizer.zero_grad()
        with pytest.raises((InvalidArgumentError, ReplicaFailedError), match=r"zero_grad\(\) was called between"):
            optimizer.step()

    several(run)


def test_a_failed_step_that_was_caught_is_followed_by_a_right_one(several, streaming):
    def run(fails):
        model = mlp()
        optimizer = DistributedOptimizer(model.named_parameters(), SGD(0.1))
        if fails:
            with pytest.raises(InvalidArgumentError, match="No gradients provided for any variable"):
                optimizer.step()
        for _ in range(2):
            optimizer.step(items=backward(model, *map(share, data())))
        return values(model)

    undisturbed = several(run, False)
    for mine, expected in zip(several(run, True), undisturbed, strict=True):
        assert all(np.array_equal(mine[name], expected[name]) for name in expected)
