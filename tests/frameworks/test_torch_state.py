"""The PyTorch adapter's state: saved, loaded, copied, taken over and dropped."""

import copy
import io

import pytest

torch = pytest.importorskip("torch")

from frameworks.torch_cases import (  # noqa: E402
    FEATURES,
    MAKERS,
    assert_close,
    backward,
    data,
    mlp,
    same,
    share,
    train,
    values,
)
from torch import nn  # noqa: E402

import distopt  # noqa: E402
from distopt.adapters.torch import DistributedOptimizer  # noqa: E402
from distopt.optimizers import SGD, Adam, legacy  # noqa: E402


@pytest.mark.parametrize("maker", ["Adam", "legacy"])
def test_state_survives_a_file(replicas, mode, maker):
    def run():
        x, y = map(share, data())
        model = mlp()
        optimizer = DistributedOptimizer(model.named_parameters(), MAKERS[maker]())
        optimizer.learning_rate = 0.02
        optimizer.step(items=backward(model, x, y))
        file = io.BytesIO()
        torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, file)
        optimizer.step(items=backward(model, x, y))

        file.seek(0)
        state = torch.load(file, weights_only=True)
        again = mlp(seed=3)
        restored = DistributedOptimizer(again.named_parameters(), MAKERS[maker]())
        restored.learning_rate = 0.02  # the legacy family does not keep it
        again.load_state_dict(state["model"])
        restored.load_state_dict(state["optimizer"])
        restored.step(items=backward(again, x, y))
        assert float(restored.learning_rate) == pytest.approx(0.02)
        assert_close(values(again), values(model), rtol=0)
        return values(again)

    assert same(replicas(run))


@pytest.mark.parametrize("update", ["replicated", "shared"])
def test_loading_parameters_between_steps_is_no_divergence(replicas, update):
    def run():
        checks = distopt.Checks(state_every=1)
        with distopt.Strategy(distopt.get_strategy().communicator, update=update, checks=checks).scope():
            model = mlp(seed=1)
            optimizer = DistributedOptimizer(model.named_parameters(), Adam(0.01))
            for seed in (2, 3):
                optimizer.step(items=backward(model, *data()))
                distopt.barrier()  # in shared mode nobody loads while another still reads
                model.load_state_dict(mlp(seed=seed).state_dict())
                distopt.barrier()
            return values(model)

    assert_close(replicas(run)[-1], values(mlp(seed=3)), rtol=0)


def test_a_state_of_something_else_is_refused():
    make = lambda model, inner: DistributedOptimizer(model.named_parameters(), inner)  # noqa: E731
    state = make(mlp(), Adam(0.01)).state_dict()
    model = nn.Sequential(nn.Linear(FEATURES, 9))
    cases = [
        (make(mlp(), legacy.Adam(0.01)), state, "the optimizer is Adam in the state and legacy.Adam here"),
        (make(model, Adam(0.01)), state, r"the shape of '0.bias' is \[8\] in the state and \[9\] here"),
        (make(mlp(), Adam(0.01)), {"state": {}}, r"received the keys \['state'\]"),
        (make(nn.Sequential(nn.Linear(FEATURES, 8)), Adam(0.01)), state, r"'2.bias' is \[4\] in the state and missing"),
    ]
    for optimizer, wrong, message in cases:
        with pytest.raises(distopt.errors.InvalidArgumentError, match=message):
            optimizer.load_state_dict(wrong)


def test_a_model_and_its_copies_go_on(tmp_path):
    model = mlp()
    optimizer = DistributedOptimizer(model.named_parameters(), Adam(0.01))
    twin = copy.deepcopy(model)
    before = values(twin)
    optimizer.step(items=backward(model, *data()))
    assert_close(values(twin), before, rtol=0)
    torch.save(model.state_dict(), tmp_path / "model.pt")
    assert (tmp_path / "model.pt").stat().st_size < 8000  # no tensor drags the whole arena along


def test_a_new_optimizer_takes_a_model_over():
    model = mlp()
    first = DistributedOptimizer(model.named_parameters(), Adam(0.01))
    first.step(items=backward(model, *data()))
    train(model, SGD(0.1), steps=1)
    backward(model, *data())
    with pytest.raises(distopt.errors.InvalidArgumentError, match="was replaced"):
        first.step()


def test_a_dropped_optimizer_leaves_the_parameters_to_autograd():
    model = mlp()
    optimizer = DistributedOptimizer(model.named_parameters(), Adam(0.01))
    view = optimizer._trained[0].view
    del optimizer
    backward(model, *data())
    assert all(parameter.grad is not None and parameter.grad is not view for parameter in model.parameters())


def test_the_learning_rate_passes_through():
    for inner in (SGD(0.5), legacy.SGD(0.5)):
        model = nn.Linear(1, 1, bias=False)
        optimizer = DistributedOptimizer(model.named_parameters(), inner)
        assert float(optimizer.learning_rate) == 0.5
        optimizer.learning_rate = 0.25
        assert float(inner.learning_rate) == 0.25


def test_a_graph_from_before_the_step_is_not_differentiated_after_it():
    model = mlp()
    optimizer = DistributedOptimizer(model.named_parameters(), Adam(0.01))
    x, y = data()
    early = nn.functional.cross_entropy(model(x), y)
    optimizer.step(items=backward(model, x, y))
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        early.backward()
