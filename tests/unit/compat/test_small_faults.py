"""What sources of others have asked for."""

import numpy as np

import distopt.compat.tensorflow as tf
from distopt import GradientTape, Variable, optimizers
from distopt.arrays import to_dtype


def test_a_dtype_of_numpys_own_is_the_same_object():
    weight = optimizers.legacy.SGD(0.1).add_weight("a", shape=[], dtype="float32", initializer="ones")
    assert weight.dtype is Variable(np.float32(1)).dtype is to_dtype("float32") is np.dtype("float32")


def test_the_only_table_of_a_list_is_looked_up_and_differentiated():
    table = Variable(np.float32([[1.0, 2.0], [3.0, 4.0]]), name="table")
    with GradientTape() as tape:
        loss = tf.reduce_sum(tf.nn.embedding_lookup([table], [1]))
    np.testing.assert_array_equal(tape.gradient(loss, table).to_dense(), [[0, 0], [1, 1]])


def test_text_is_a_static_value():
    assert tf.get_static_value("ADAM") == "ADAM"


def test_a_function_is_called_on_this_replica():
    assert tf.distribute.get_strategy().extended.call_for_each_replica(max, args=(1, 2)) == 2


def test_variables_have_ids_of_their_own():
    a, b = Variable(np.float32(0), name="w"), Variable(np.float32(0), name="w")
    assert a._unique_id != b._unique_id
    assert not a._in_graph_mode
