"""The PyTorch adapter on one and several replicas: N of them are one on the joined batch, in both modes."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from frameworks.torch_cases import (  # noqa: E402
    CLASSES,
    FEATURES,
    MAKERS,
    assert_close,
    backward,
    data,
    filled,
    mlp,
    same,
    share,
    train,
    values,
    variables_of,
)
from torch import nn  # noqa: E402

import distopt  # noqa: E402
from distopt.adapters.torch import DistributedOptimizer, broadcast_buffers  # noqa: E402
from distopt.optimizers import SGD, Adam  # noqa: E402


@pytest.mark.parametrize("maker", MAKERS)
def test_replicas_are_one_process_on_the_joined_batch(replicas, mode, maker):
    results = replicas(lambda: train(mlp(), MAKERS[maker]()))
    assert same(results)
    model, inner = mlp(), MAKERS[maker]()
    with distopt.Strategy(distopt.distribute.LocalCommunicator()).scope():
        assert_close(results[0], train(model, inner), rtol=2e-4, atol=1e-6)


def test_modes_have_the_same_bits(several, monkeypatch):
    digests = set()
    for update, bucket in (("replicated", ""), ("shared", ""), ("replicated", "64"), ("shared", "200")):
        monkeypatch.setenv("DISTOPT_UPDATE", update)
        monkeypatch.setenv("DISTOPT_BUCKET_BYTES", bucket)
        digests |= {distopt.digest(result.values()) for result in several(lambda: train(mlp(), Adam(0.01)))}
    assert len(digests) == 1


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (lambda: Adam(0.01, epsilon=1e-12), lambda p: torch.optim.Adam(p, 0.01, eps=1e-12)),
        (lambda: SGD(0.1, momentum=0.9), lambda p: torch.optim.SGD(p, 0.1, momentum=0.9)),
        (lambda: SGD(0.1, momentum=0.9, nesterov=True), lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, nesterov=True)),
    ],
)
def test_it_trains_as_pytorch_does(ours, theirs):
    mine, reference = mlp(), mlp()
    optimizer = theirs(reference.parameters())
    x, y = data()
    for _ in range(10):
        optimizer.zero_grad()
        nn.functional.cross_entropy(reference(x), y).backward()
        optimizer.step()
    assert_close(train(mine, ours(), steps=10), values(reference), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_dtypes(replicas, mode, dtype):
    def run():
        model = mlp(dtype=dtype)
        optimizer = DistributedOptimizer(model.named_parameters(), SGD(0.1))
        x, y = map(share, data())
        optimizer.step(items=backward(model, x.to(dtype), y))
        assert {parameter.dtype for parameter in model.parameters()} == {dtype}
        return values(model)

    results = replicas(run)
    assert same(results)
    assert_close(results[0], train(mlp(), SGD(0.1), steps=1), rtol=0.1, atol=0.02)


def test_parameters_and_gradients_lie_in_distopts_memory(replicas, mode):
    def run():
        model = mlp()
        before = list(model.parameters())
        optimizer = DistributedOptimizer(model.named_parameters(), Adam(0.01))
        addresses = [parameter.data_ptr() for parameter in model.parameters()]
        buffers = optimizer._optimizer.gradient_buffers(variables_of(optimizer))
        for _ in range(2):
            items = backward(model, *map(share, data()))
            grads = [parameter.grad.data_ptr() for parameter in reversed(before) if parameter.grad is not None]
            assert grads == [buffer.ctypes.data for buffer in buffers]
            optimizer.step(items=items)
        assert all(parameter is old for parameter, old in zip(model.parameters(), before, strict=True))
        assert addresses == [parameter.data_ptr() for parameter in model.parameters()]
        assert addresses[::-1] == [variable.storage.array.ctypes.data for variable in variables_of(optimizer)]
        assert [variable.name for variable in variables_of(optimizer)] == [n for n, _ in model.named_parameters()][::-1]

    replicas(run)


def test_the_first_forward_has_replica_0s_parameters(replicas, mode):
    def run():
        model = mlp(seed=distopt.replica_index())
        model[0].bias.requires_grad = False  # frozen, and still replica 0's
        DistributedOptimizer(model.named_parameters(), Adam(0.01))
        return values(model)

    results = replicas(run)
    assert same(results)
    assert_close(results[0], values(mlp(seed=0)), rtol=0)


def test_a_replica_without_data(several, mode):
    def run():
        model = mlp()
        optimizer = DistributedOptimizer(model.named_parameters(), Adam(0.01))
        x, y = data()
        last = distopt.replica_index() == distopt.num_replicas() - 1
        optimizer.step(items=backward(model, x[:0] if last else x, y[:0] if last else y))
        if last:
            optimizer.step(items=0)  # not even a backward pass
        else:
            optimizer.step(items=backward(model, x, y))
        return values(model)

    results = several(run)
    assert same(results)


class Branches(nn.Module):
    """Two branches, of which one is taken; the third layer is never used."""

    def __init__(self):
        super().__init__()
        self.left, self.right, self.unused = (nn.Linear(FEATURES, CLASSES) for _ in range(3))

    def forward(self, x, branch):
        return getattr(self, branch)(x)


def test_unused_parameters(several, mode, recwarn):
    def run():
        model = filled(Branches())
        before = values(model)
        optimizer = DistributedOptimizer(model.named_parameters(), Adam(0.01))
        x, y = map(share, data())
        branch = "right" if distopt.replica_index() == distopt.num_replicas() - 1 else "left"
        nn.functional.cross_entropy(model(x, branch), y, reduction="sum").backward()
        optimizer.step(items=len(x))
        after = values(model)
        changed = {name for name in before if not np.array_equal(before[name], after[name])}
        assert changed == {"left.weight", "left.bias", "right.weight", "right.bias"}
        return after

    assert same(several(run))
    assert all("unused.weight" in str(warning.message) for warning in recwarn)


class Tied(nn.Module):
    """An embedding that is also the last layer."""

    def __init__(self, sparse=False):
        super().__init__()
        self.embedding = nn.Embedding(CLASSES, FEATURES, sparse=sparse)
        self.head = nn.Linear(FEATURES, CLASSES, bias=False)
        if not sparse:
            self.head.weight = self.embedding.weight

    def forward(self, tokens):
        return self.head(self.embedding(tokens))


def train_tokens(model, make, steps=3):
    optimizer = make(model.named_parameters())
    _, y = data()
    mine = y if isinstance(optimizer, torch.optim.Optimizer) else share(y)
    for _ in range(steps):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(mine), (mine + 1) % CLASSES, reduction="sum")
        if isinstance(optimizer, torch.optim.Optimizer):
            (loss / len(mine)).backward()
            optimizer.step()
        else:
            loss.backward()
            optimizer.step(items=len(mine))
    return values(model)


@pytest.mark.parametrize("sparse", [False, True], ids=["tied", "sparse"])
def test_tied_weights_and_sparse_gradients(replicas, mode, sparse):
    results = replicas(lambda: train_tokens(filled(Tied(sparse)), lambda named: DistributedOptimizer(named, SGD(0.1))))
    assert same(results)
    expected = train_tokens(filled(Tied(sparse)), lambda named: torch.optim.SGD([p for _, p in named], 0.1))
    assert_close(results[0], expected, rtol=1e-4, atol=1e-6)


def test_names_of_one_parameter_are_one_variable():
    model = Tied()
    both = list(model.named_parameters(remove_duplicate=False))
    assert len(both) == 2
    optimizer = DistributedOptimizer(both, SGD(0.1))
    assert [variable.name for variable in variables_of(optimizer)] == ["embedding.weight"]


@pytest.mark.parametrize("inside", [1, 2])
def test_accumulation(replicas, mode, inside):
    """``inside`` of two backward passes stand in the no_sync block."""

    def run():
        model = mlp()
        optimizer = DistributedOptimizer(model.named_parameters(), Adam(0.01))
        x, y = map(share, data())
        for _ in range(2):
            with optimizer.no_sync():
                backward(model, x[1:], y[1:])
                if inside == 2:
                    backward(model, x[:1], y[:1])
            if inside == 1:
                backward(model, x[:1], y[:1])
            optimizer.step(items=len(x))
            optimizer.zero_grad()
        return values(model)

    results = replicas(run)
    assert same(results)
    assert_close(results[0], train(mlp(), Adam(0.01), steps=2), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "drop",
    [
        lambda model, optimizer: optimizer.zero_grad(),
        lambda model, optimizer: optimizer.zero_grad(set_to_none=False),
        lambda model, optimizer: model.zero_grad(),
        lambda model, optimizer: model.zero_grad(set_to_none=False),
        lambda model, optimizer: None,
    ],
    ids=["ours", "ours, zero", "model", "model, zero", "none"],
)
def test_every_zero_grad(drop):
    model = mlp()
    optimizer = DistributedOptimizer(model.named_parameters(), Adam(0.01))
    x, y = data()
    for _ in range(3):
        drop(model, optimizer)
        optimizer.step(items=backward(model, x, y))
    assert_close(values(model), train(mlp(), Adam(0.01), steps=3), rtol=0)


@pytest.mark.parametrize("to_none", [True, False])
def test_gradients_can_be_thrown_away(to_none):
    model = filled(Branches())
    optimizer = DistributedOptimizer(model.named_parameters(), SGD(0.1))
    before = values(model)
    x, y = data()
    for branch in ("left", "right", "unused"):
        model.zero_grad(set_to_none=to_none)
        nn.functional.cross_entropy(model(x, branch), y).backward()
    if to_none:
        with pytest.warns(UserWarning, match="left.weight"):
            optimizer.step()
    else:
        optimizer.step()
    changed = {name for name, value in values(model).items() if not np.array_equal(before[name], value)}
    assert changed == {"unused.weight", "unused.bias"}


def test_buffers_are_replica_0s(replicas, mode):
    def run():
        model = nn.Sequential(nn.BatchNorm1d(FEATURES), nn.Linear(FEATURES, CLASSES))
        model.register_buffer("offset", torch.arange(6.0).reshape(2, 3).t() + distopt.replica_index())
        optimizer = DistributedOptimizer(filled(model).named_parameters(), Adam(0.01))
        x, y = data()
        mine = x * (1 + distopt.replica_index()) + distopt.replica_index()
        optimizer.step(items=backward(model, mine, y))
        own = {name: buffer.clone() for name, buffer in model.named_buffers()}
        broadcast_buffers(model)
        return own, {name: buffer.clone() for name, buffer in model.named_buffers()}

    results = replicas(run)
    for name, expected in results[0][0].items():
        for r, (own, taken) in enumerate(results):
            assert torch.equal(taken[name], expected)
            assert r == 0 or name.endswith("num_batches_tracked") or not torch.equal(own[name], expected)
