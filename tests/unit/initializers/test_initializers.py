"""Initial values: shapes, variances, names, and the same numbers on every replica."""

import numpy as np
import pytest

from distopt import Variable, initializers, simulate
from distopt.errors import InvalidArgumentError

NAMES = [name for name in initializers.__all__ if name[0].isupper() and name != "Initializer"]


@pytest.mark.parametrize("name", NAMES)
def test_every_initializer_by_name_and_back(name):
    initializer = initializers.get(name)
    described = initializers.serialize(initializer)
    twin = initializers.deserialize(described)
    assert type(twin) is type(initializer) is getattr(initializers, name)
    assert twin.get_config() == initializer.get_config() == initializer.clone().get_config()
    value = initializer((6, 4), "float64")
    assert (value.shape, value.dtype) == ((6, 4), np.float64)
    assert initializer((6, 4)).dtype == np.float32
    np.testing.assert_array_equal(initializer((6, 4), "float64"), value, "one initializer, one value")


def test_names_of_keras():
    for alias, cls in {
        "glorot_uniform": "GlorotUniform", "zeros": "Zeros", "ones": "Ones", "normal": "RandomNormal",
        "uniform": "RandomUniform", "random_normal": "RandomNormal", "orthogonal": "Orthogonal",
    }.items():  # fmt: skip
        assert type(initializers.get(alias)).__name__ == cls
    assert initializers.get(None) is None
    assert initializers.get(np.zeros) is np.zeros
    assert type(initializers.get(initializers.Ones)) is initializers.Ones
    with pytest.raises(InvalidArgumentError, match=r"Unknown initializer 'glorot_unifrom'.*Did you mean 'GlorotUni"):
        initializers.get("glorot_unifrom")
    with pytest.raises(InvalidArgumentError, match="get received 3: expected an initializer"):
        initializers.get(3)


@pytest.mark.parametrize(
    ("name", "variance"),
    [
        ("GlorotUniform", 2 / 500), ("GlorotNormal", 2 / 500), ("HeNormal", 2 / 200), ("HeUniform", 2 / 200),
        ("LecunNormal", 1 / 200), ("LecunUniform", 1 / 200), ("RandomNormal", 0.05**2), ("RandomUniform", 0.01 / 12),
    ],
)  # fmt: skip
def test_variances(name, variance):
    values = getattr(initializers, name)(seed=1)((200, 300), "float64")
    assert abs(values.mean()) < 0.02 * np.sqrt(variance)
    np.testing.assert_allclose(values.var(), variance, rtol=0.02)


def test_limits_and_matrices():
    assert np.abs(initializers.TruncatedNormal(stddev=1.0, seed=0)((5000,))).max() <= 2
    tall = initializers.Orthogonal(seed=0)((5, 3), "float64")
    np.testing.assert_allclose(tall.T @ tall, np.eye(3), atol=1e-12)
    wide = initializers.Orthogonal(2.0, seed=0)((3, 5), "float64")
    np.testing.assert_allclose(wide @ wide.T, 4 * np.eye(3), atol=1e-12)
    np.testing.assert_array_equal(initializers.Identity(2)((2, 3)), 2 * np.eye(2, 3))
    np.testing.assert_array_equal(initializers.Constant([1, 2])((2, 2)), [[1, 2], [1, 2]])
    assert initializers.VarianceScaling(mode="fan_in", seed=3)((3, 3, 4, 2)).shape == (3, 3, 4, 2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: initializers.Identity()((3,)), "expected that of a matrix"),
        (lambda: initializers.Orthogonal()((3,)), "expected two axes or more"),
        (lambda: initializers.VarianceScaling(mode="fan"), "'fan_in', 'fan_out' or 'fan_avg'"),
        (lambda: initializers.VarianceScaling(scale=0), "expected a scale above 0"),
        (lambda: initializers.VarianceScaling(distribution="beta"), "received distribution='beta'"),
    ],
)
def test_what_does_not_fit(call, message):
    with pytest.raises(InvalidArgumentError, match=message):
        call()


def test_replicas_draw_the_same_and_initializers_draw_different_ones():
    def values():
        return [Variable("random_normal", shape=(3,)).numpy() for _ in range(2)]

    (first, second), (again, _) = simulate(2, values)
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, second)
