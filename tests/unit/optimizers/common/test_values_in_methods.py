"""What a method of the user's computes is a value: in-place operators make a new one, as in TensorFlow."""

import numpy as np
import pytest

import distopt.compat.tensorflow as tf
from distopt import GradientTape, Variable
from distopt.optimizers import Optimizer, legacy


def noisy(values):
    values += 1.0
    return values


def updated(gradient, variable):
    """Take a step in which a function changes its argument, as those of TensorFlow can't; 0.5 is right from 1 and 1."""
    half, kept = variable * 0.5, tf.where(gradient > 0, gradient, -gradient)
    noisy(half), noisy(kept), noisy(tf.sqrt(variable))
    variable.assign_sub(half * kept)


class New(Optimizer):
    def update_step(self, gradient, variable, learning_rate):
        updated(gradient, variable)


class Old(legacy.Optimizer):
    def _resource_apply_dense(self, grad, var):
        alias = grad
        alias += 5.0
        updated(grad, var)


@pytest.mark.parametrize("optimizer", [lambda: New(1.0), lambda: Old("Old")], ids=["Keras 3", "legacy"])
def test_in_place_operators_change_no_other_name(optimizer):
    w = Variable(np.float32([[1.0]]), name="w")
    optimizer().apply_gradients([(np.float32([[1.0]]), w)])
    np.testing.assert_array_equal(w.numpy(), np.float32([[0.5]]))


class Probing(Optimizer):
    def update_step(self, gradient, variable, learning_rate):
        inner = Variable(np.float32([[2.0]]))
        with GradientTape() as tape:
            loss = tf.reduce_sum(inner * inner * gradient)
        variable.assign_sub(tape.gradient(loss, inner))


def test_a_tape_inside_a_method_follows_what_meets_values():
    w = Variable(np.float32([[1.0]]), name="w")
    Probing(1.0).apply_gradients([(np.float32([[0.25]]), w)])
    np.testing.assert_array_equal(w.numpy(), np.float32([[0.0]]))
