"""Upstream's import lines by substitution, and the sentences on what is not there."""

import importlib
import importlib.util

import numpy as np
import pytest

import distopt
import distopt.compat.keras as keras
import distopt.compat.tensorflow as tf
from distopt import optimizers
from distopt.compat import keras as the_same
from distopt.errors import InvalidArgumentError
from distopt.optimizers import legacy, schedules

TF, KERAS = "distopt.compat.tensorflow", "distopt.compat.keras"

IMPORTS = {
    f"{TF}.keras.optimizers.legacy:Optimizer": legacy.Optimizer,
    f"{TF}.keras.optimizers.legacy.optimizer_v2:OptimizerV2": legacy.Optimizer,
    f"{TF}.keras.optimizer_v2.optimizer_v2:OptimizerV2": legacy.Optimizer,
    f"{TF}.keras.optimizers.legacy.gradient_descent:SGD": legacy.SGD,
    f"{TF}.keras.optimizers:Optimizer": optimizers.Optimizer,
    f"{TF}.keras.optimizers.experimental:Adam": optimizers.Adam,
    f"{TF}.keras.optimizers.schedules:LearningRateSchedule": schedules.LearningRateSchedule,
    f"{TF}.keras.optimizers.schedules.learning_rate_schedule:CosineDecay": schedules.CosineDecay,
    f"{TF}.optimizers.legacy:Adam": legacy.Adam,
    f"{TF}.keras.losses:MSE": distopt.losses.mean_squared_error,
    f"{TF}.keras.constraints:NonNeg": distopt.constraints.NonNeg,
    f"{TF}.keras.initializers:Constant": distopt.initializers.Constant,
    f"{TF}.python.ops.math_ops:sqrt": tf.sqrt,
    f"{TF}.python.framework.ops:convert_to_tensor": tf.convert_to_tensor,
    f"{KERAS}.src.optimizers.optimizer:Optimizer": optimizers.Optimizer,
    f"{KERAS}.src.optimizers.base_optimizer:BaseOptimizer": optimizers.Optimizer,
    f"{KERAS}.src.optimizers.adam:Adam": optimizers.Adam,
    f"{KERAS}.src.optimizers.schedules.learning_rate_schedule:LearningRateSchedule": schedules.LearningRateSchedule,
    f"{KERAS}.src.losses.losses:huber": distopt.losses.huber,
    f"{KERAS}.src.losses.loss:Loss": distopt.losses.Loss,
    f"{KERAS}.src.constraints.constraints:Constraint": distopt.constraints.Constraint,
    f"{KERAS}.src.initializers.initializer:Initializer": distopt.initializers.Initializer,
    f"{KERAS}.src.ops:sqrt": distopt.ops.sqrt,
    f"{KERAS}.src.backend:Variable": distopt.Variable,
    f"{KERAS}.src.backend:convert_to_tensor": None,
    f"{KERAS}.src.api_export:keras_export": None,
    f"{KERAS}.src.utils.naming:auto_name": None,
    f"{KERAS}.src.saving.keras_saveable:KerasSaveable": None,
    f"{KERAS}.saving.object_registration:register_keras_serializable": None,
}


@pytest.mark.parametrize("line", IMPORTS)
def test_lines_of_import(line):
    path, _, name = line.partition(":")
    assert importlib.util.find_spec(path) is not None
    found = getattr(importlib.import_module(path), name)
    assert found is not None if IMPORTS[line] is None else found is IMPORTS[line]


def test_modules_are_attributes_of_their_parents():
    assert the_same is keras
    assert tf.keras.optimizers.legacy.Optimizer is tf.compat.v1.keras.optimizers.legacy.Optimizer is legacy.Optimizer
    assert keras.optimizers.Adam is keras.src.optimizers.adam.Adam is optimizers.Adam
    assert tf.keras.optimizers.Optimizer.__module__ == tf.keras.optimizers.experimental.Optimizer.__module__
    assert (tf.__version__, tf.version.VERSION) == ("2.15.1", "2.15.1")
    assert (tf.dtypes.int64, tf.random.normal.__name__, tf.keras.version()) == (np.int64, "normal", "2.15.1")
    assert not tf.keras.utils.tf_utils.is_symbolic_tensor(1)
    assert keras.backend.epsilon() == tf.keras.backend.epsilon() == 1e-7


@pytest.mark.parametrize(
    ("get", "message"),
    [
        (lambda: tf.distribute.Strategy.run, "run.*every replica runs the whole program"),
        (lambda: tf.distribute.get_strategy().reduce, "reduce.*distopt.all_reduce"),
        (lambda: tf.distribute.get_strategy().experimental_distribute_dataset, "distopt.data.batches"),
        (lambda: tf.distribute.get_strategy().runs, "Strategy has no attribute 'runs'$"),
        (lambda: tf.distribute.MirroredStrategy, "replicas are processes"),
        (lambda: tf.train.Checkpoint, "distopt.checkpoint.Checkpointer"),
        (lambda: tf.keras.layers.Dense, "no layers and no models"),
        (lambda: keras.datasets.mnist, "distopt.data"),
        (lambda: tf.data.Dataset, "global batches"),
        (lambda: tf.gradients, "GradientTape"),
        (lambda: keras.backend.gradients, "GradientTape"),
        (lambda: tf.nothing, "module 'distopt.compat.tensorflow' has no attribute 'nothing'$"),
        (lambda: keras.nothing, "module 'distopt.compat.keras' has no attribute 'nothing'$"),
    ],
)
def test_what_is_not_there_has_a_counterpart(get, message):
    with pytest.raises(AttributeError, match=message):
        get()


def test_classes_for_annotations_can_not_be_made():
    for cls in (tf.keras.Model, tf.keras.layers.Layer, keras.callbacks.Callback, tf.keras.regularizers.Regularizer):
        assert not isinstance(1, cls)
        with pytest.raises(NotImplementedError, match=f"{cls.__name__}: distopt has no layers"):
            cls()
    with pytest.raises(InvalidArgumentError, match="default dtype of distopt is float32"):
        keras.backend.set_floatx("float64")


def test_every_name_is_something():
    for path, names in {
        **{f"k.{p}": n for p, n in importlib.import_module("distopt.compat.keras_paths").KERAS.items()}
    }.items():
        assert [name for name, value in names.items() if value is None] == [], path


def test_registered_classes_are_packaged_and_the_last_one_counts():
    def lamb():
        @tf.keras.utils.register_keras_serializable(package="Compat")
        class LAMB(keras.optimizers.SGD):
            pass

        return LAMB

    lamb()
    cls = lamb()
    described = keras.saving.serialize_keras_object(cls(0.5))
    assert described["registered_name"] == "Compat>LAMB"
    assert type(keras.saving.deserialize_keras_object(described)) is cls
    assert type(tf.keras.optimizers.deserialize(described)) is cls
    assert tf.keras.utils.get_registered_object("Compat>LAMB") is cls
    assert tf.keras.utils.get_custom_objects()["Compat>LAMB"] is cls


def test_objects_of_every_kind_as_dictionaries():
    for thing in (
        keras.optimizers.Adam(0.5), tf.keras.optimizers.legacy.SGD(0.5), keras.optimizers.schedules.CosineDecay(0.1, 5),
        keras.losses.Huber(2.0), keras.constraints.MaxNorm(3.0), keras.initializers.Constant(2.0),
    ):  # fmt: skip
        described = keras.saving.serialize_keras_object(thing)
        assert type(keras.saving.deserialize_keras_object(described)) is type(thing)
    assert keras.saving.serialize_keras_object(np.float32(2)) == keras.saving.deserialize_keras_object(2)
    with pytest.raises(InvalidArgumentError, match="no class 'Nobody' is known"):
        keras.saving.deserialize_keras_object({"class_name": "Nobody", "config": {}})


def test_optimizers_of_both_families_by_name():
    assert type(tf.keras.optimizers.get("sgd")) is optimizers.SGD
    assert type(tf.keras.optimizers.get("sgd", use_legacy_optimizer=True)) is legacy.SGD
    for family in (optimizers, legacy):
        scaled = tf.keras.mixed_precision.LossScaleOptimizer(family.SGD(0.5))
        assert type(scaled) is family.LossScaleOptimizer
        assert isinstance(scaled, tf.keras.mixed_precision.LossScaleOptimizer)


def test_functions_of_the_backend():
    K = keras.backend  # noqa: N806 (its usual name)
    x = K.variable([1.0, -4.0], name="x")
    np.testing.assert_array_equal(K.sqrt(x), [1, 0])
    np.testing.assert_array_equal(K.get_value(K.update_add(x, [1.0, 1.0])), [2, -3])
    np.testing.assert_array_equal(K.moving_average_update(x, [0.0, 1.0], 0.5), [1, -1])
    np.testing.assert_array_equal(K.switch(x > 0, x, 2 * x), [1, -2])
    assert (K.int_shape(x), K.dtype(x), K.floatx(), K.is_sparse(x), K.ndim(x)) == ((2,), "float32", "float32", False, 1)
    np.testing.assert_array_equal(K.clip(x, None, 0.5), [0.5, -1])
    assert K.switch(True, lambda: 1, lambda: 2) == 1
    assert K.standardize_dtype(None) == "float32"
    assert keras.utils.to_categorical([0, 2]).shape == (2, 3)
