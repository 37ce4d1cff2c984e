"""The replacements on the page about optimizers of others make sources for TensorFlow and Keras train here."""

import re
import subprocess

import numpy as np
import pytest
from pages import DOCS, blocks

from distopt import Variable

PAGE = DOCS / "porting-optimizers.md"
SCRIPTS = dict(re.findall(r"^cat > (\w+\.sed) <<'END'\n(.*?)^END$", "".join(b.text for b in blocks(PAGE)), re.M | re.S))

LINES = {
    "import tensorflow as tf": "import distopt.compat.tensorflow as tf",
    "    import tensorflow.compat.v2 as tf": "    import distopt.compat.tensorflow as tf",
    "import tensorflow": "import distopt.compat.tensorflow as tensorflow",
    "import tensorflow as tf, tf_keras": "import distopt.compat.tensorflow as tf",
    "import keras": "import distopt.compat.keras as keras",
    "import tf_keras as keras": "import distopt.compat.tensorflow.keras as keras",
    "from tf_keras.src.optimizers import optimizer": "from distopt.compat.tensorflow.keras.optimizers import optimizer",
    "from keras.src.optimizers import optimizer": "from distopt.compat.keras.src.optimizers import optimizer",
    "from tensorflow.python.keras import backend as K": "from distopt.compat.tensorflow.keras import backend as K",
    "from tensorflow.python.keras.optimizer_v2.optimizer_v2 import OptimizerV2": (
        "from distopt.compat.tensorflow.keras.optimizers.legacy import Optimizer as OptimizerV2"
    ),
    "    x = state_ops.assign(m, math_ops.sqrt(m))": "    x = tf.compat.v1.assign(m, tf.compat.v1.sqrt(m))",
    "    dtype = var.dtype.base_dtype": "    dtype = var.dtype",
    "    if var.dtype.is_complex:": "    if var.dtype.kind == 'c':",
    "    shape, n = var.shape.as_list(), var.shape.ndims": "    shape, n = var.shape, var.ndim",
    "    if m.shape==[] or m.shape != []:": "    if m.shape == () or m.shape != ():",
    "    n = x.dtype.size": "    n = x.dtype.itemsize",
    "class A(tf_keras.optimizers.legacy.Optimizer):": "class A(tf.keras.optimizers.legacy.Optimizer):",
    'importlib.util.find_spec("tensorflow.keras.optimizers.legacy")': (
        'importlib.util.find_spec("distopt.compat.tensorflow.keras.optimizers.legacy")'
    ),
    "keras_like = tensorflow_addons": "keras_like = tensorflow_addons",
}

OLD = """
import tensorflow as tf
from tensorflow.python.ops import math_ops, state_ops
from tensorflow.keras.optimizers import Optimizer


class Old(Optimizer):
    def __init__(self, learning_rate=0.5, name="Old", **kwargs):
        super().__init__(name, **kwargs)
        self._set_hyper("learning_rate", learning_rate)

    def _resource_apply_dense(self, grad, var):
        return state_ops.assign_sub(var, self._decayed_lr(var.dtype.base_dtype) * math_ops.square(grad))
"""

MIDDLE = """
import tensorflow as tf
from tf_keras.src.optimizers import optimizer


class Middle(optimizer.Optimizer):
    def __init__(self, learning_rate=0.5, weight_decay=None, jit_compile=False, name="Middle", **kwargs):
        super().__init__(name=name, weight_decay=weight_decay, jit_compile=jit_compile, **kwargs)
        self._learning_rate = self._build_learning_rate(learning_rate)

    def update_step(self, gradient, variable):
        variable.assign_sub(tf.cast(self.learning_rate, variable.dtype) * tf.square(gradient))
"""

NEW = """
import tensorflow as tf
from keras.src.optimizers import optimizer


class New(optimizer.Optimizer):
    def update_step(self, gradient, variable, learning_rate):
        variable.assign_sub(tf.cast(learning_rate, variable.dtype) * tf.square(gradient))
"""


def replaced(source, *names):
    for name in names:
        done = subprocess.run(["sed", "-E", SCRIPTS[name]], input=source, capture_output=True, text=True, check=True)
        source = done.stdout
    return source


@pytest.mark.parametrize("line", LINES, ids=str)
def test_each_replacement(line):
    assert replaced(line + "\n", "port.sed") == LINES[line] + "\n"


def test_imports_of_private_functions_go():
    assert replaced("from tensorflow.python.ops import math_ops, state_ops\n", "port.sed") == ""


@pytest.mark.parametrize(
    ("source", "name", "scripts"),
    [(OLD, "Old", ("legacy.sed", "port.sed")), (MIDDLE, "Middle", ("port.sed",)), (NEW, "New", ("port.sed",))],
    ids=["TensorFlow 2.0 to 2.10", "Keras 2.11 to 2.15", "Keras 3"],
)
def test_sources_of_each_age_train(source, name, scripts):
    names = {"__name__": "ported"}
    exec(replaced(source, *scripts), names)
    optimizer = names[name](learning_rate=0.5)
    w = Variable(np.float32([1.0, 2.0]), name="w")
    optimizer.apply_gradients([(np.float32([1.0, 2.0]), w)])
    np.testing.assert_array_equal(w.numpy(), np.float32([0.5, 0.0]))
