"""Random numbers: alike behind the sum, independent before it, and the same after a resume."""

import numpy as np
import pytest

import distopt.compat.keras as keras
import distopt.compat.tensorflow as tf
from distopt import Variable, checkpoint, simulate


class Noisy(keras.optimizers.Optimizer):
    """Adds noise to every update."""

    def update_step(self, gradient, variable, learning_rate):
        self.assign_sub(variable, learning_rate * (gradient + tf.random.normal(variable.shape)))


class LegacyNoisy(tf.keras.optimizers.legacy.Optimizer):
    """Adds noise to every update."""

    def __init__(self, learning_rate=1.0, name="LegacyNoisy", **kwargs):
        super().__init__(name, **kwargs)
        self._set_hyper("learning_rate", learning_rate)

    def _resource_apply_dense(self, grad, var, apply_state=None):
        return var.assign_sub(grad + tf.random.normal(var.shape))


def train(make, steps, directory=None, resumed_at=None):
    v, w = Variable(np.zeros(3, "f4"), name="v"), Variable(np.zeros(3, "f4"), name="w")
    optimizer = make(1.0)
    own = []
    checkpointer = directory and checkpoint.Checkpointer(directory, optimizer=optimizer, variables=[v, w])
    start = checkpointer.restore() or 0 if resumed_at is not None else 0
    for step in range(start, steps):
        own.append(tf.random.normal([2]))
        optimizer.apply_gradients([(np.ones(3, "f4"), v), (np.ones(3, "f4"), w)])
        if checkpointer and step == 1 and resumed_at is None:
            checkpointer.save()
            checkpointer.wait()
            break
    return v.numpy(), w.numpy(), np.array(own)


@pytest.mark.parametrize("make", [Noisy, LegacyNoisy])
def test_replicas_draw_alike_behind_the_sum_and_apart_before_it(make):
    (v, w, own), (v2, w2, own2) = simulate(2, lambda: train(make, 3))
    np.testing.assert_array_equal(v, v2)
    np.testing.assert_array_equal(w, w2)
    assert not np.array_equal(v, w), "variables get different noise"
    assert not np.any(own == own2)
    assert len(np.unique(own)) == own.size


def test_seeds():
    def values():
        tf.random.set_seed(7)
        first = tf.random.normal([3]), tf.random.normal([3], seed=1)
        tf.random.set_seed(7)
        again = tf.random.normal([3]), tf.random.normal([3], seed=1)
        np.testing.assert_array_equal(first, again)
        assert not np.array_equal(*first)
        tf.random.set_seed(8)
        assert not np.array_equal(first[0], tf.random.normal([3]))

    simulate(1, values)


def test_distributions():
    n = tf.random.normal([20000], 2.0, 3.0)
    assert n.dtype == np.float32
    np.testing.assert_allclose([n.mean(), n.std()], [2, 3], atol=0.1)
    u = tf.random.uniform([20000], -1.0, 3.0, dtype=tf.float64)
    np.testing.assert_allclose([u.mean(), u.std()], [1, 4 / np.sqrt(12)], atol=0.05)
    assert set(tf.random.uniform([100], 0, 3, dtype=tf.int32).tolist()) == {0, 1, 2}
    assert np.abs(tf.random.truncated_normal([5000])).max() <= 2
    assert sorted(tf.random.shuffle(np.arange(5)).tolist()) == [0, 1, 2, 3, 4]
    generator = tf.random.Generator.from_seed(3)
    assert not np.array_equal(generator.normal([3]), generator.normal([3]))
    np.testing.assert_array_equal(tf.random.stateless_normal([3], [1, 2]), tf.random.stateless_normal([3], [1, 2]))


def test_a_number_as_a_seed_of_keras_gives_the_same_values():
    np.testing.assert_array_equal(keras.random.normal((3,), seed=5), keras.random.normal((3,), seed=5))
    generator = keras.random.SeedGenerator(5)
    assert not np.array_equal(keras.random.uniform((3,), seed=generator), keras.random.uniform((3,), seed=generator))
    assert set(keras.random.randint((50,), 0, 2).tolist()) == {0, 1}
    np.testing.assert_array_equal(keras.random.shuffle(np.zeros((2, 3)), axis=1), np.zeros((2, 3)))


def test_a_resumed_run_draws_what_it_would_have_drawn(tmp_path):
    def whole():
        return train(Noisy, 4)

    def first():
        return train(Noisy, 4, tmp_path)

    def rest():
        return train(Noisy, 4, tmp_path, resumed_at=2)

    for (v, w, own), _, (v2, w2, own2) in zip(simulate(2, whole), simulate(2, first), simulate(2, rest), strict=True):
        np.testing.assert_array_equal(v, v2)
        np.testing.assert_array_equal(w, w2)
        np.testing.assert_array_equal(own[2:], own2)
