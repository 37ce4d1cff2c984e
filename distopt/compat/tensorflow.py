"""TensorFlow's names over distopt, in place of ``import tensorflow as tf`` in files that define optimizers.

``import distopt.compat.tensorflow as tf``; its modules can be imported under TensorFlow's paths. What is not there
raises an AttributeError that says what takes its place.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from distopt import errors
from distopt.compat import distribution, dtypes, serialization
from distopt.compat.functions import control, random
from distopt.compat.keras_paths import COUNTERPARTS as OF_KERAS
from distopt.compat.keras_paths import KERAS
from distopt.compat.names import Paths, below, install, lacking, public
from distopt.compat.pool import POOL, RAW_OPS, TRAINING_OPS

__version__ = "2.15.1"

_STRATEGY = "replicas are processes, and every one runs the whole program: "
COUNTERPARTS = {
    **{f"keras.{name}": sentence for name, sentence in OF_KERAS.items()},
    "distribute.*": f"{_STRATEGY}distopt.Strategy, or nothing at all",
    "distribute.experimental.*": f"{_STRATEGY}distopt.Strategy, or nothing at all",
    "data.*": "distopt.data cuts arrays into global batches",
    "data.Dataset": "distopt.data cuts arrays into global batches",
    "train.Checkpoint": "use distopt.checkpoint.Checkpointer",
    "train.*": "checkpoints are in distopt.checkpoint, optimizers in tf.keras.optimizers",
    "compat.v1.train.*": "optimizers are in tf.keras.optimizers",
    "compat.v1.Session": "nothing is symbolic: values are there at once",
    "compat.v1.placeholder": "pass arrays: nothing is symbolic",
    "gradients": "use GradientTape: a loss is a function here, and no graph",
    "sparse.*": "gradients of rows are IndexedSlices; other sparse tensors are not known",
    "SparseTensorSpec": "gradients of rows are IndexedSlices; other sparse tensors are not known",
    "py_function": "call the function itself",
    "numpy_function": "call the function itself",
    "Module": "write a class of Python; its variables are its attributes",
    "summary.*": "print, or log on one replica: distopt.print_once",
    "test.*": "use unittest or pytest",
    "load_op_library": "operations are functions of NumPy",
}
"""Sentences on names that are not there."""

_INITIALIZERS = {f"{name}_initializer": cls for name, cls in KERAS["initializers"].items() if name.islower()}
_DISTRIBUTE = public(distribution)
_OF_OPS = (
    *("array_ops", "check_ops", "clip_ops", "control_flow_ops", "cond", "gen_math_ops", "linalg_ops", "math_ops", "nn"),
    *("nn_ops", "gen_resource_variable_ops", "gen_state_ops", "resource_variable_ops", "standard_ops", "state_ops"),
    *("variable_scope", "variables", "while_loop", "array_ops_stack", "special_math_ops", "gen_training_ops"),
)
_PLACEHOLDERS = {"TraceType": dtypes.Operation, "Tensor": dtypes.Tensor}

PATHS: Paths = {
    "": POOL | _INITIALIZERS,
    **dict.fromkeys(("math", "linalg", "nn", "debugging", "compat.v2"), POOL),
    "compat.v1": POOL | _INITIALIZERS,
    "compat.v1.nn": POOL,
    "compat.v1.math": POOL,
    "compat.v1.train": {},
    "dtypes": dtypes.DTYPES | public(dtypes) | {"cast": POOL["cast"]},
    "raw_ops": RAW_OPS,
    "random": public(random),
    "random.experimental": {"Generator": random.Generator},
    "initializers": KERAS["initializers"],
    "optimizers": KERAS["optimizers"],
    "optimizers.schedules": KERAS["optimizers.schedules"],
    "optimizers.legacy": KERAS["optimizers.legacy"],
    "losses": KERAS["losses"],
    "distribute": _DISTRIBUTE,
    "distribute.experimental": {},
    "errors": {name: getattr(errors, name) for name in ("InvalidArgumentError", "DistoptError")},
    "nest": {"flatten": control.flatten, "map_structure": control.map_structure},
    "autograph.experimental": {"do_not_convert": control.do_not_convert},
    "config": {"run_functions_eagerly": control.no_op, "list_physical_devices": control.list_physical_devices},
    "experimental.numpy": {name: getattr(np, name) for name in ("allclose", "finfo", "inf", "nan", "pi")},
    "version": {"VERSION": __version__},
    **{path: {} for path in ("data", "sparse", "summary", "test", "train", "saved_model", "io")},
    "types.experimental": _PLACEHOLDERS,
    **{f"python.ops.{name}": POOL for name in _OF_OPS},
    "python.ops.random_ops": {f"random_{name}": function for name, function in public(random).items()},
    "python.training.training_ops": TRAINING_OPS,
    "python.training.gen_training_ops": TRAINING_OPS,
    **{f"python.framework.{name}": POOL for name in ("ops", "dtypes", "constant_op", "tensor_shape", "indexed_slices")},
    "python.eager.def_function": POOL,
    "python.eager.context": POOL,
    **{f"python.distribute.{name}": _DISTRIBUTE for name in ("values", "ps_values", "reduce_util")},
    "python.distribute.distribution_strategy_context": _DISTRIBUTE,
    "python.distribute.distribute_lib": _DISTRIBUTE,
    "python.util.tf_export": {"keras_export": serialization.keras_export, "tf_export": serialization.keras_export},
    "python.types.trace": _PLACEHOLDERS,
    "python.types.core": _PLACEHOLDERS,
    **below("keras", KERAS),
    **below("keras.src", KERAS),
}

install(__name__, PATHS, COUNTERPARTS)

for _path in ("compat.v1", "compat.v2", "python"):
    vars(sys.modules[f"{__name__}.{_path}"])["keras"] = sys.modules[f"{__name__}.keras"]
vars(sys.modules[f"{__name__}.keras"]).update(__version__=__version__, version=lambda: __version__)

_lacks = lacking(__name__, "", COUNTERPARTS)


def __getattr__(name: str) -> Any:
    raise _lacks(name)
