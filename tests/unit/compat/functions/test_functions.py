"""Functions under TensorFlow's names give TensorFlow's values."""

import numpy as np
import pytest
from unit.compat.functions.tensorflow_steps import STEPS
from unit.compat.functions.tensorflow_values import VALUES

import distopt.compat.tensorflow as tf
from distopt import GradientTape, IndexedSlices, Variable

A = np.array([[3.0, -1.0, 0.5], [0.0, 4.0, -2.0]], "f4")
S = np.array([[2.0, 0.5], [0.5, 3.0]], "f4")


@pytest.mark.parametrize("name", VALUES)
@pytest.mark.parametrize("make", [np.array, Variable], ids=["array", "Variable"])
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_values_of_tensorflow(name, make):
    expression, value, dtype = VALUES[name]
    got = np.asarray(eval(expression, {"tf": tf, "np": np, "A": make(A), "S": make(S)}))
    np.testing.assert_allclose(got, value, rtol=2e-6, atol=1e-6)
    if dtype != "int32" or got.dtype.kind != "i":  # numbers of Python from functions of the user
        assert got.dtype.name == dtype


NUMBERS = {"l": 0.1, "m": 0.9, "r": 0.95, "e": 0.001, "o": 0.02, "t": 0.03, "s": 0.04, "p": -0.6}


@pytest.mark.parametrize("name", STEPS)
def test_raw_operations_of_tensorflow(name):
    arguments, expected = STEPS[name]
    start = [[1, -2], [0.5, 3]], [[0.3, 0.4], [0.1, 0.2]], [[0.02, 0.5], [0.7, 0.01]], [[0.1, 0.05], [0.02, 0.03]]
    variables = [Variable(np.array(value, "f4")) for value in start]
    given = {"v": [variable.handle for variable in variables], "i": np.array([1, 1]), "j": np.array([1, 0])}
    gradient = np.array([[0.5, -0.25], [2.0, 0.125]], "f4")
    assert eval(f"tf.raw_ops.{name}({arguments})", {"tf": tf, "g": gradient, **NUMBERS, **given}) is None
    for variable, value in zip(variables, expected, strict=True):
        np.testing.assert_allclose(variable, value, rtol=2e-6, atol=1e-7)
        assert variable.dtype == np.float32


def test_raw_operations_in_snake_case():
    from distopt.compat.tensorflow.python.training import training_ops

    v = Variable([1.0, 2.0])
    training_ops.resource_apply_gradient_descent(v.handle, 0.5, [1.0, 2.0], use_locking=True)
    np.testing.assert_array_equal(v, [0.5, 1])
    assert callable(tf.compat.v1.resource_apply_rms_prop)


def test_elementwise_functions_are_those_of_numpy():
    for name in [
        "sqrt",
        "square",
        "exp",
        "log",
        "log1p",
        "expm1",
        "sin",
        "cos",
        "tan",
        "tanh",
        "abs",
        "floor",
        "ceil",
        "sign",
        "negative",
    ]:
        for room in (tf, tf.math, tf.compat.v1):
            np.testing.assert_array_equal(getattr(room, name)(S, name="ignored"), getattr(np, name)(S))
    for name in ["add", "subtract", "multiply", "maximum", "minimum", "greater", "less_equal", "not_equal"]:
        np.testing.assert_array_equal(getattr(tf, name)(S, y=S / 2), getattr(np, name)(S, S / 2))
    np.testing.assert_array_equal(tf.pow(S, 2), S**2)
    np.testing.assert_array_equal(tf.math.reciprocal(S), 1 / S)
    np.testing.assert_array_equal(tf.math.is_nan([np.nan, 1]), [True, False])


def test_rows_stay_rows():
    rows = IndexedSlices([[3.0], [4.0]], [1, 1], (2, 1))
    for got, factor in ((tf.clip_by_norm(rows, 1.0), 0.2), (tf.cast(rows, tf.float64), 1), (tf.identity(rows), 1)):
        np.testing.assert_allclose(got.values, rows.values * factor, rtol=1e-6)
    np.testing.assert_allclose(tf.clip_by_value(rows, 0.0, 3.5).values, [[3], [3.5]])
    assert isinstance(tf.clip_by_global_norm([rows], 1.0)[0][0], IndexedSlices)
    assert tf.is_tensor(rows)


def test_control_flow():
    @tf.function(jit_compile=True)
    def double(x):
        return 2 * x

    with tf.control_dependencies([None]), tf.name_scope("scope") as scope, tf.device("CPU:0"), tf.init_scope():
        assert (double(3), tf.function(double)(2), scope) == (6, 4, "scope/")
    assert tf.executing_eagerly() is True
    assert tf.group(1, 2) is tf.no_op() is None
    assert tf.cond(np.True_, lambda: 1, lambda: 2) == 1
    assert tf.nest.map_structure(lambda x, y: x + y, {"a": [1, 2]}, {"a": [3, 4]}) == {"a": [4, 6]}
    assert tf.nest.flatten({"b": (1, [2]), "a": 0}) == [0, 1, 2]
    assert int(tf.while_loop(lambda i: i < 5, lambda i: [i + 2], [0])[0]) == 6
    with pytest.raises(ValueError, match="no condition holds"):
        tf.case([(False, lambda: 1)])

    def sign_():
        pass

    with pytest.raises(NotImplementedError, match="sign_ has a custom_gradient"):
        tf.custom_gradient(sign_)()


def test_gradients_of_functions():
    v = Variable(S)
    with GradientTape() as tape:
        y = tf.reduce_sum(tf.matmul(v, v, transpose_b=True)) + tf.norm(v) + tf.reduce_mean(tf.square(v))
        y = y + tf.reduce_sum(tf.gather(v, [1])) + tf.reduce_max(tf.transpose(tf.reshape(v, [1, 4]), [1, 0]))
    expected = 2 * S.sum(0, keepdims=True) + S / np.linalg.norm(S) + S / 2 + [[0, 0], [1, 1]] + [[0, 0], [0, 1]]
    np.testing.assert_allclose(tape.gradient(y, v), np.broadcast_to(expected, (2, 2)), rtol=1e-5)


def test_names_of_dtypes():
    assert (tf.float32, tf.bfloat16.name, tf.dtypes.as_dtype("half")) == (np.float32, "bfloat16", np.float16)
    assert isinstance(S, tf.Tensor)
    assert not isinstance(Variable(1.0), tf.Tensor)
    assert (tf.TensorShape([2, 3]).rank, tf.TensorShape([2, 3]).as_list()) == (2, [2, 3])


def test_assignments():
    v = tf.Variable([1.0, 2.0], trainable=False, aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA)
    tf.compat.v1.assign(v, [2.0, 3.0], use_locking=True)
    tf.compat.v1.assign_add(v, [1.0, 1.0])
    tf.compat.v1.assign_sub(v, [0.0, 1.0])
    np.testing.assert_array_equal(v, [3, 3])
    np.testing.assert_array_equal(tf.compat.v1.scatter_add(v, [0], [1.0]), [4, 3])
