"""The modules of Keras, by path, for ``distopt.compat.keras`` and ``distopt.compat.tensorflow.keras``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from distopt import constraints, initializers, losses, ops, optimizers
from distopt.compat import backend, dtypes, serialization
from distopt.compat.functions import arrays, control, keras_random, linalg, math
from distopt.compat.names import Paths, public
from distopt.compat.pool import POOL
from distopt.gradients import GradientTape
from distopt.optimizers import legacy, schedules
from distopt.variables.variable import Variable

NO_LAYERS = "distopt has no layers and no models: write the loss with NumPy, or see distopt.adapters.keras"
COUNTERPARTS = {
    **{f"{room}.*": NO_LAYERS for room in ("layers", "models", "applications", "activations", "engine")},
    "Input": NO_LAYERS,
    "callbacks.*": "callbacks of Keras' fit are in distopt.adapters.keras; a loop of your own calls what it needs",
    "datasets.*": "distopt has no data sets; distopt.data cuts arrays into global batches",
    "metrics.*": "sums, means and accuracies over the replicas are in distopt.metrics",
    "regularizers.*": "add the penalty to the loss: distopt.losses.scale_regularization_loss",
    "backend.gradients": "use GradientTape: a loss is a function here, and no graph",
    "backend.function": "call the function itself: nothing is symbolic",
    "backend.placeholder": "pass arrays: nothing is symbolic",
}
"""Sentences on names that are not there."""


def _names(module: Any) -> dict[str, Any]:
    return {name: getattr(module, name) for name in module.__all__}


def _by_file(names: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return classes by the last part of the module that defines them, which is Keras' name for it as well."""
    files: dict[str, dict[str, Any]] = {}
    for name, value in names.items():
        if isinstance(value, type):
            files.setdefault(value.__module__.rpartition(".")[2], {})[name] = value
    return files


_SAVING = {
    **public(serialization),
    "custom_object_scope": serialization.custom_object_scope,
    "CustomObjectScope": serialization.CustomObjectScope,
}
_OPTIMIZER_FUNCTIONS = {
    "get": serialization.get_optimizer,
    "deserialize": serialization.deserialize_optimizer,
    "serialize": serialization.serialize_optimizer,
}
_OPTIMIZERS = _names(optimizers) | _OPTIMIZER_FUNCTIONS
_OPTIMIZERS.pop("legacy"), _OPTIMIZERS.pop("schedules")
_LEGACY = _names(legacy) | {"OptimizerV2": legacy.Optimizer, "RestoredOptimizer": legacy.Optimizer}
_BASE = {
    "Optimizer": optimizers.Optimizer,
    "BaseOptimizer": optimizers.Optimizer,
    "_BaseOptimizer": optimizers.Optimizer,
    "base_optimizer_keyword_args": "",
}
_SCHEDULES = _names(schedules)
_INITIALIZERS = _names(initializers)
_INITIALIZERS |= {
    serialization.to_snake_case(name): _INITIALIZERS[name] for name in tuple(_INITIALIZERS) if name[0].isupper()
}
_CONSTRAINTS = _names(constraints)
_CONSTRAINTS |= {
    serialization.to_snake_case(name): _CONSTRAINTS[name] for name in tuple(_CONSTRAINTS) if name[0].isupper()
}
_LOSSES = _names(losses)
_OPS = _names(ops) | {"name_scope": control.name_scope, "is_sparse": backend.is_sparse}
_BACKEND = {
    **{name: value for name, value in {**_OPS, **public(linalg, math, arrays)}.items() if name not in ("eye", "copy")},
    **_OPS,
    **{
        name: POOL[name]
        for name in ("tanh", "sigmoid", "softmax", "softplus", "relu", "gather", "pow", "argmax", "argmin")
    },
    **public(backend, dtypes, control),
    "Variable": Variable,
    "random": None,
}
_BACKEND.pop("random")
_BACKEND_CONFIG = {name: getattr(backend, name) for name in ("epsilon", "floatx", "set_epsilon", "set_floatx")}
_MODELS = dtypes.absent("Model", "Sequential")
_NAMING = {"auto_name": serialization.auto_name, "to_snake_case": serialization.to_snake_case}


def _legacy_paths(prefix: str) -> dict[str, Mapping[str, Any]]:
    files = _by_file(_LEGACY)
    return {
        prefix: _LEGACY,
        f"{prefix}.optimizer_v2": _LEGACY,
        f"{prefix}.gradient_descent": files["sgd"],
        **{f"{prefix}.{home}": names for home, names in files.items() if home not in ("optimizer", "loss_scale")},
    }


def _paths(prefix: str) -> dict[str, Mapping[str, Any]]:
    files = {f"{prefix}.{home}": names for home, names in _by_file(_OPTIMIZERS).items()}
    return {**files, f"{prefix}.optimizer": _BASE, f"{prefix}.base_optimizer": _BASE}


def _of_optimizers() -> dict[str, Mapping[str, Any]]:
    return {
        "optimizers": _OPTIMIZERS,
        **_paths("optimizers"),
        **_paths("optimizers.optimizer_experimental"),  # Keras 2.9 and 2.10
        "optimizers.experimental": _OPTIMIZERS,
        "optimizers.schedules": _SCHEDULES,
        "optimizers.schedules.learning_rate_schedule": _SCHEDULES,
        "optimizers.learning_rate_schedule": _SCHEDULES,
        **_legacy_paths("optimizers.legacy"),
        **_legacy_paths("optimizer_v2"),
        "optimizer_v2.learning_rate_schedule": _SCHEDULES,
        "mixed_precision": {"LossScaleOptimizer": serialization.LossScaleOptimizer},
    }


def _of_the_rest() -> dict[str, Mapping[str, Any]]:
    return {
        "": {
            "GradientTape": GradientTape,
            "Initializer": initializers.Initializer,
            "KerasTensor": dtypes.KerasTensor,
            "Loss": losses.Loss,
            **_MODELS,
            "Optimizer": optimizers.Optimizer,
            "Variable": Variable,
            "device": control.device,
            "name_scope": control.name_scope,
        },
        "losses": _LOSSES,
        "losses.losses": _LOSSES,
        "losses.loss": _LOSSES,
        "constraints": _CONSTRAINTS,
        "constraints.constraints": _CONSTRAINTS,
        "initializers": _INITIALIZERS,
        **{
            f"initializers.{home}": _INITIALIZERS
            for home in ("initializer", "initializers", "random_initializers", "constant_initializers")
        },
        "ops": _OPS,
        **{f"ops.{home}": _OPS for home in ("core", "linalg", "math", "nn", "numpy")},
        "backend": _BACKEND,
        "backend_config": _BACKEND_CONFIG,
        "config": _BACKEND_CONFIG | {"backend": backend.backend},
        "random": public(keras_random),
        "tree": {"flatten": control.flatten, "map_structure": control.map_structure},
        "api_export": {"keras_export": serialization.keras_export},
    }


def _of_saving() -> dict[str, Mapping[str, Any]]:
    return {
        "saving": _SAVING,
        **{
            f"saving.{home}": _SAVING
            for home in ("keras_saveable", "legacy", "legacy.serialization", "object_registration", "serialization_lib")
        },
        "utils": _SAVING,
        **{f"utils.{home}": _SAVING for home in ("generic_utils", "legacy", "tf_utils")},
        "utils.naming": _NAMING,
        "utils.tracking": {"no_automatic_dependency_tracking": serialization.no_automatic_dependency_tracking},
        "engine.keras_tensor": {"KerasTensor": dtypes.KerasTensor},
        "callbacks": dtypes.absent("Callback"),
        "layers": dtypes.absent("AbstractRNNCell", "BatchNormalization", "Layer"),
        "metrics": dtypes.absent("Metric"),
        "models": _MODELS,
        "regularizers": dtypes.absent("Regularizer"),
        **{room: {} for room in ("activations", "applications", "datasets")},
    }


KERAS: Paths = {**_of_optimizers(), **_of_the_rest(), **_of_saving()}
