"""Objects as plain dictionaries, under the names of ``keras.saving`` and ``keras.utils``."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from distopt import constraints, initializers, losses, optimizers
from distopt.compat.functions import random
from distopt.errors import InvalidArgumentError
from distopt.optimizers import legacy, schedules
from distopt.optimizers.common.base import BaseOptimizer
from distopt.process.names import snake_case, unique_name
from distopt.registry import custom_objects as registered_objects
from distopt.registry import passing, register, registered, registered_name_of

_KINDS: tuple[tuple[type, Any], ...] = (
    (BaseOptimizer, optimizers),
    (schedules.LearningRateSchedule, schedules),
    (constraints.Constraint, constraints),
    (losses.Loss, losses),
    (initializers.Initializer, initializers),
)

custom_object_scope = CustomObjectScope = passing


def register_keras_serializable(package: str = "Custom", name: str | None = None) -> Callable[[Any], Any]:
    """Return a decorator that makes a class known as ``package>name``, in place of another one of that name."""

    def decorator(cls: Any) -> Any:
        registered_objects().pop(f"{package}>{name or cls.__name__}", None)  # as in Keras, the last one counts
        return register(package=package, name=name)(cls)

    return decorator


def keras_export(*paths: Any, **options: Any) -> Callable[[Any], Any]:
    """Return a decorator that does nothing: names of a public interface are the file's own."""
    return lambda decorated: decorated


def serialize_keras_object(obj: Any) -> Any:
    """Return an object as a dictionary; numbers, texts, lists and None as they are."""
    for kind, package in _KINDS:
        if isinstance(obj, kind):
            return package.serialize(obj)
    if isinstance(obj, (np.generic, np.ndarray)):
        return obj.tolist()
    if hasattr(obj, "get_config"):
        cls = type(obj)
        return {
            "module": cls.__module__,
            "class_name": cls.__name__,
            "config": obj.get_config(),
            "registered_name": registered_name_of(cls),
        }
    return obj


def deserialize_keras_object(
    config: Any,
    custom_objects: Mapping[str, Any] | None = None,
    module_objects: Any = None,
    printable_module_name: str | None = None,
    **options: Any,
) -> Any:
    """Make the object that a dictionary describes; what is no such dictionary is returned as it is.

    Raises:
        InvalidArgumentError: an unknown class.
    """
    if not (isinstance(config, Mapping) and "class_name" in config):
        return config
    known = registered(config.get("registered_name") or config["class_name"])
    if isinstance(known, type) and not issubclass(known, tuple(kind for kind, _ in _KINDS)):
        return known.from_config(dict(config["config"]))  # type: ignore[attr-defined]
    for _, package in _KINDS:
        try:
            return package.deserialize(config, custom_objects)
        except InvalidArgumentError as error:
            if not str(error).startswith("Unknown "):
                raise
    raise InvalidArgumentError(
        f"no class {config['class_name']!r} is known: decorate it with register_keras_serializable, or pass "
        f"custom_objects={{{config['class_name']!r}: ...}}"
    )


def get_registered_name(obj: Any) -> str:
    """Return the name under which a class is registered."""
    return registered_name_of(obj)


def get_custom_objects() -> dict[str, Any]:
    """Return the registered classes by name; what is put in is registered."""
    return registered_objects()


def get_registered_object(name: str, custom_objects: Any = None, module_objects: Any = None) -> Any:
    """Return the class that is registered under a name, or None."""
    return (custom_objects or {}).get(name) or registered(name)


def get_optimizer(
    identifier: Any, custom_objects: Any = None, use_legacy_optimizer: Any = False, **options: Any
) -> Any:
    """Return an optimizer: by its name, by its dictionary, or the optimizer given."""
    return (legacy if use_legacy_optimizer else optimizers).get(identifier, custom_objects)


def deserialize_optimizer(
    config: Any, custom_objects: Any = None, use_legacy_optimizer: Any = None, **options: Any
) -> Any:
    """Make the optimizer that a dictionary describes."""
    return (legacy if use_legacy_optimizer else optimizers).deserialize(config, custom_objects)


def serialize_optimizer(optimizer: Any, use_legacy_format: Any = False) -> dict[str, Any]:
    """Return an optimizer as a dictionary."""
    return optimizers.serialize(optimizer)


class _OfBothFamilies(type):
    """Makes the loss-scaling optimizers of both families instances."""

    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, (optimizers.LossScaleOptimizer, legacy.LossScaleOptimizer))


class LossScaleOptimizer(metaclass=_OfBothFamilies):
    """Makes the loss-scaling optimizer of the family of the optimizer inside it."""

    def __new__(cls, inner_optimizer: Any, *args: Any, **kwargs: Any) -> Any:
        """Make the optimizer."""
        family: Any = legacy if isinstance(inner_optimizer, legacy.Optimizer) else optimizers
        return family.LossScaleOptimizer(inner_optimizer, *args, **kwargs)


def to_snake_case(name: str) -> str:
    """Return a name in snake case."""
    return snake_case(re.sub(r"\W+", "", name))


def auto_name(prefix: str) -> str:
    """Return a name in snake case, numbered from its second use on."""
    return unique_name(to_snake_case(prefix))


def set_random_seed(seed: int) -> None:
    """Set the seed of random numbers inside of optimizers, and of NumPy's global generator."""
    random.set_seed(seed)
    np.random.seed(seed)


def to_categorical(x: Any, num_classes: int | None = None) -> Any:
    """Return rows with a 1 at the number of each class."""
    labels = np.asarray(x, np.int64)
    return np.eye(num_classes or int(labels.max()) + 1, dtype=np.float32)[labels]


class KerasSaveable:
    """The base of what Keras can save; it has nothing here."""


def is_symbolic_tensor(tensor: Any) -> bool:
    """Return False: nothing is symbolic."""
    return False


def no_automatic_dependency_tracking(func: Any) -> Any:
    """Return a function as it is."""
    return func
