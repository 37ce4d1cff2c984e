"""What goes in as a gradient, and that nobody's array is changed; gradient buffers; memory placed once."""

import ml_dtypes
import numpy as np
import pytest

import distopt
from distopt import GradientTape, Variable, aggregators, optimizers
from distopt.distribute.transports.threads import Hub, ThreadCommunicator
from distopt.optimizers import legacy

CLASSES = [optimizers.SGD, optimizers.Adam, legacy.SGD, legacy.Adam, legacy.NonFusedAdam]
DTYPES = [np.float16, ml_dtypes.bfloat16, np.float32, np.float64]


class Tensor:
    """Like a tensor of a framework: not an ndarray, with a dtype that is not NumPy's."""

    dtype = "framework.float32"

    def __init__(self, array):
        self.array = array

    def __array__(self, dtype=None, copy=None):
        return self.array if dtype is None else self.array.astype(dtype)


def forms():
    """One gradient, (1, 2), in all the forms that are taken."""
    plain = np.array([1.0, 2.0], np.float32)
    read_only = plain.copy()
    read_only.flags.writeable = False
    return {
        "array": plain,
        "read-only": read_only,
        "list": [1.0, 2.0],
        "integers": (1, 2),
        "every other": np.array([1, 9, 2, 9], np.float32)[::2],
        "reversed": np.array([2, 1], np.float32)[::-1],
        "big-endian": plain.astype(">f4"),
        "tensor": Tensor(plain),
        "variable": Variable(plain),
        "matrix column": np.asfortranarray([[1, 5], [2, 5]]).astype(np.float32)[:, 0],
    }


@pytest.mark.parametrize("cls", [optimizers.SGD, legacy.SGD])
@pytest.mark.parametrize("form", list(forms()))
def test_forms_of_a_gradient(cls, form):
    gradient = forms()[form]
    x, before = Variable([0.0, 0.0]), np.array(gradient)
    cls(learning_rate=1.0, clipvalue=1.5).apply_gradients([(gradient, x)])
    np.testing.assert_array_equal(x.numpy(), [-1, -1.5])
    np.testing.assert_array_equal(np.array(gradient), before)


@pytest.mark.filterwarnings("ignore:.*keeps second moments.*in float16")
@pytest.mark.parametrize("cls", CLASSES)
@pytest.mark.parametrize("shape", [(), (0,), (0, 3), (1,), (2, 1, 3)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_shapes_and_dtypes(cls, shape, dtype):
    x, y = Variable(np.zeros(shape, dtype)), Variable([0.0])
    optimizer = cls(learning_rate=0.5, global_clipnorm=100.0)
    optimizer.apply_gradients([(np.ones(shape, dtype), x), ([1.0], y)])
    assert (x.shape, x.dtype) == (shape, dtype)
    np.testing.assert_allclose(x.numpy().astype(float), -0.5 * np.ones(shape), atol=1e-2)
    np.testing.assert_allclose(y.numpy(), [-0.5], atol=1e-5)


def test_a_number_is_a_gradient_of_a_scalar():
    x = Variable(1.0)
    for optimizer in (optimizers.SGD(0.5), legacy.SGD(0.5)):
        optimizer.apply_gradients([(1.0, x)])
    assert float(x) == 0.0


def test_mixed_dtypes_in_one_step():
    xs = [Variable(np.ones(3, dtype)) for dtype in DTYPES for _ in range(2)]
    legacy.SGD(0.5, momentum=0.5).apply_gradients([(np.ones(3, x.dtype), x) for x in xs])
    for x in xs:
        np.testing.assert_array_equal(x.numpy().astype(float), 0.5)


def test_dtypes_are_cast_in_keras_3_and_refused_in_the_legacy_family():
    x, gradient = Variable([0.0], name="x"), np.array([1.0])
    optimizers.SGD(1.0).apply_gradients([(gradient, x)])
    optimizers.SGD(1.0).apply_gradients([(np.array([1]), x)])
    assert float(x[0]) == -2.0
    with pytest.raises(ValueError, match=r"gradient of 'x' has dtype float64.*astype\('float32'\)"):
        legacy.SGD(1.0).apply_gradients([(gradient, x)])


def test_a_list_that_can_be_read_once():
    x, y = Variable([0.0]), Variable([0.0])
    legacy.SGD(1.0).apply_gradients((g, v) for g, v in [([1.0], x), ([2.0], y)])
    optimizers.SGD(1.0).apply_gradients(zip(iter([[1.0], [2.0]]), iter([x, y]), strict=True))
    assert (float(x[0]), float(y[0])) == (-2.0, -4.0)


def test_a_step_inside_the_tape():
    x, sgd = Variable([1.0]), legacy.SGD(0.25)
    with GradientTape(persistent=True) as tape:
        loss = x * x
        sgd.apply_gradients([(tape.gradient(loss, x), x)])
    assert float(x[0]) == 0.5


def test_no_array_of_the_user_is_changed():
    gradients = [np.full(4, 7.0, np.float32), np.full((2, 2), -7.0, np.float32)]
    copies = [g.copy() for g in gradients]

    def in_place(pairs):
        for gradient, _ in pairs:
            gradient *= 3
        return pairs

    xs = [Variable(np.zeros(g.shape, np.float32)) for g in gradients]
    for cls, options in ((legacy.Adam, {"clipnorm": 1.0}), (optimizers.SGD, {"gradient_transformers": [in_place]})):
        cls(gradient_aggregator=in_place, **options).apply_gradients(zip(gradients, xs, strict=True))
    for gradient, copy in zip(gradients, copies, strict=True):
        np.testing.assert_array_equal(gradient, copy)


@pytest.mark.parametrize("cls", CLASSES)
def test_gradient_buffers_are_used_where_they_lie(cls):
    x, y, z = Variable(np.zeros((2, 2), np.float32)), Variable(0.0), Variable([0.0], dtype="float64")
    seen = []

    class Look(aggregators.Aggregator):
        def __call__(self, pairs):
            seen.extend(gradient for gradient, _ in pairs)
            return pairs

    optimizer = cls(0.5, gradient_aggregator=Look())
    buffers = optimizer.gradient_buffers([x, y, z])
    assert [(b.shape, b.dtype) for b in buffers] == [(v.shape, v.dtype) for v in (x, y, z)]
    for step in range(2):
        for buffer in buffers:
            buffer[...] = 1.0
        optimizer.apply_gradients(zip(buffers, [x, y, z], strict=True))
        assert all(mine is buffer for mine, buffer in zip(seen[3 * step :], buffers, strict=True))
    np.testing.assert_allclose([x.numpy()[1, 1], float(y), float(z[0])], -1.0, atol=1e-4)
    assert all(a is b for a, b in zip(buffers, optimizer.gradient_buffers([x, y, z]), strict=True))
    assert not np.shares_memory(buffers[0], x.value)


def test_buffers_of_other_variables_are_refused():
    x, y, sgd = Variable([0.0]), Variable([0.0], name="y"), legacy.SGD(1.0)
    a, b = sgd.gradient_buffers([x, y])
    a[:], b[:] = 1, 2
    with pytest.raises(ValueError, match="is the gradient buffer of another variable"):
        sgd.apply_gradients([(b, x), (a, y)])
    sgd.apply_gradients([(b, y), (a, x)])
    assert (float(x[0]), float(y[0])) == (-1.0, -2.0)
    sgd.apply_gradients([(a.copy(), x), (None, y)])
    assert (float(x[0]), float(y[0])) == (-2.0, -2.0)


def test_memory_is_placed_once():
    """Several optimizers over the same variables, in other orders, step the same memory."""
    a, b, c = (Variable([float(k)] * 3) for k in range(3))
    generator, discriminator, everything = optimizers.SGD(0.5), legacy.Adam(0.5), legacy.SGD(0.5)
    generator.apply_gradients([([1.0] * 3, a), ([1.0] * 3, b)])
    held = [v.value for v in (a, b)]
    discriminator.apply_gradients([([1.0] * 3, c)])
    everything.apply_gradients([([1.0] * 3, v) for v in (c, b, a)])
    assert all(h is v.value for h, v in zip(held, (a, b), strict=True))
    np.testing.assert_allclose([a.numpy()[0], b.numpy()[0], c.numpy()[0]], [-1, 0, 1], atol=1e-4)
    assert held[0][0] == -1.0, "the view is live"


def test_an_optimizer_belongs_to_its_replica():
    outside = [optimizers.SGD(1.0), legacy.SGD(1.0)]
    assert int(outside[1].iterations) == 0

    def step(optimizer):
        with pytest.raises(distopt.errors.ForeignVariableError, match="made by this process"):
            optimizer.apply_gradients([([1.0], Variable([1.0]))])
        return True

    for optimizer in outside:
        assert distopt.simulate(2, step, optimizer) == [True, True]
        optimizer.apply_gradients([([1.0], Variable([1.0]))])


def test_variables_belong_to_their_replica():
    x = Variable([1.0], name="outside")

    def step():
        for optimizer in (optimizers.SGD(1.0, momentum=0.9), legacy.SGD(1.0)):
            with pytest.raises(distopt.errors.ForeignVariableError, match="'outside' was made by this process"):
                optimizer.apply_gradients([([1.0], x)])
            with pytest.raises(distopt.errors.ForeignVariableError):
                optimizer.gradient_buffers([x])
        return True

    assert distopt.simulate(2, step) == [True, True]
    assert x.storage.buffer is None, "nobody has placed its memory"


@pytest.mark.parametrize("cls", [optimizers.SGD, legacy.SGD])
def test_every_communicator_begins_from_the_values_of_its_replica_0(cls):
    hubs = [Hub(2), Hub(2)]

    def train():
        x, index = Variable([1.0], name="x"), distopt.replica_index()
        optimizer = cls(1.0)
        half = distopt.Strategy(ThreadCommunicator(hubs[index // 2], index % 2))
        with half.scope():
            optimizer.apply_gradients([([float(index)], x)])
        apart = float(x[0])
        optimizer.apply_gradients([([0.0], x)])
        together = float(x[0])
        with half.scope():  # no broadcast again
            optimizer.apply_gradients([([float(index)], x)])
        return apart, together, float(x[0])

    with pytest.warns(UserWarning, match="replica 2 began with other values than replica 0, first in variable 'x'"):
        results = distopt.simulate(4, train)
    assert results == [(0, 0, -1), (0, 0, -1), (-4, 0, -5), (-4, 0, -5)]
