"""Optimizers by name, as plain dictionaries, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from distopt.errors import InvalidArgumentError
from distopt.optimizers.common.base import BaseOptimizer
from distopt.optimizers.keras3.optimizer import Optimizer
from distopt.optimizers.legacy.base.optimizer import Optimizer as LegacyOptimizer
from distopt.registry import describe, find, passing

KERAS_3 = "distopt.optimizers"
LEGACY = "distopt.optimizers.legacy"
_NOT_ARGUMENTS = ("is_legacy_optimizer", "jit_compile")
"""Entries that tf_keras writes into a config beside the arguments."""


def serialize(optimizer: Optimizer | LegacyOptimizer) -> dict[str, Any]:
    """Return an optimizer as a dictionary that ``deserialize`` reads: its arguments, not its state.

    Args:
        optimizer: an optimizer of either family.

    Returns:
        ``{"module", "class_name", "config", "registered_name"}``, which JSON can hold; the module is
        ``distopt.optimizers`` or ``distopt.optimizers.legacy``. For a class of your own ``registered_name`` is its
        name: ``deserialize`` needs it registered (``distopt.optimizers.register``) or in ``custom_objects``.

    Raises:
        InvalidArgumentError: no optimizer, or one whose config JSON can't hold (a learning rate that is a function).

    Example:
        >>> import distopt
        >>> serialize(distopt.optimizers.SGD(0.5))["class_name"]
        'SGD'

    Source: the format of Keras 3, ``keras.optimizers.serialize``.
    """
    if not isinstance(optimizer, BaseOptimizer):
        raise InvalidArgumentError(f"serialize received {optimizer!r}: expected an optimizer of distopt")
    return describe(optimizer, _family_of(type(optimizer)), BaseOptimizer)


def deserialize(
    config: Mapping[str, Any], custom_objects: Mapping[str, type] | None = None
) -> Optimizer | LegacyOptimizer:
    """Make the optimizer that ``serialize`` of distopt, Keras 3 or tf_keras described; without state.

    The family is legacy if the dictionary says so: by ``config["is_legacy_optimizer"]``, else by a module with
    ``legacy`` in its path, else, in the short form without a module, by an argument ``decay`` or ``lr``, which only
    that family writes. Everything else is Keras 3.

    Args:
        config: ``{"module", "class_name", "config", "registered_name"}`` or the short ``{"class_name", "config"}``;
            not changed. The class name's case and underscores do not count.
        custom_objects: classes of your own by name, of optimizers and schedules; they take precedence over distopt's.

    Raises:
        InvalidArgumentError: no such dictionary; an unknown class, with the nearest match; an impossible argument.

    Example:
        >>> import distopt
        >>> adam = deserialize({"class_name": "adam", "config": {"learning_rate": 0.5}})
        >>> type(adam), round(float(adam.learning_rate), 4)
        (<class 'distopt.optimizers.adam.Adam'>, 0.5)

    Source: Keras 3, ``keras.optimizers.deserialize``. tf_keras takes every dictionary whose config does not say
    otherwise as a legacy one.
    """
    made: Optimizer | LegacyOptimizer = make(_family_in(config), config, custom_objects, BaseOptimizer)
    return made


def get(identifier: Any, custom_objects: Mapping[str, type] | None = None) -> Optimizer | LegacyOptimizer:
    """Return an optimizer: by its name with default arguments, by its dictionary, or the optimizer given.

    Args:
        identifier: a name of the Keras 3 family or of a registered class (case and underscores do not count), a
            dictionary as ``deserialize`` reads it, or an optimizer.
        custom_objects: classes of your own by name.

    Raises:
        InvalidArgumentError: an unknown name, with the nearest match; something else (Keras returns None for None).

    Example:
        >>> get("ADAM_W").get_config()["weight_decay"]
        0.004

    Source: Keras 3, ``keras.optimizers.get``; there ``get("lamb")`` fails.
    """
    family = _family_in(identifier) if isinstance(identifier, Mapping) else KERAS_3
    found: Optimizer | LegacyOptimizer = resolve(family, identifier, custom_objects, BaseOptimizer)
    return found


def make(package: str, config: Any, custom_objects: Mapping[str, type] | None, base: type) -> Any:
    """Make the optimizer of one family that a dictionary describes."""
    with passing(custom_objects):
        cls = find("an optimizer", config, package, base)
        arguments = {name: value for name, value in config["config"].items() if name not in _NOT_ARGUMENTS}
        return cls.from_config(arguments)


def resolve(package: str, identifier: Any, custom_objects: Mapping[str, type] | None, base: type) -> Any:
    """Return the optimizer that ``get`` of one family returns."""
    if isinstance(identifier, base):
        return identifier
    if isinstance(identifier, str):
        identifier = {"class_name": identifier, "config": {}}
    if isinstance(identifier, Mapping):
        return make(package, identifier, custom_objects, base)
    hint = ""
    if isinstance(identifier, type):
        hint = f": pass an optimizer, {identifier.__name__}()"
    elif hasattr(identifier, "apply_gradients"):  # classes of both families have the same names
        hint = f" of {type(identifier).__module__}"
    raise InvalidArgumentError(
        f"get received {identifier!r}{hint}: expected a name, a dictionary or an optimizer of {package}"
    )


def _family_of(cls: type) -> str:
    inherited = (ancestor.__module__ for ancestor in cls.__mro__)
    return LEGACY if any(module.startswith(LEGACY) for module in inherited) else KERAS_3


def _family_in(config: Any) -> str:
    if not isinstance(config, Mapping) or not isinstance(config.get("config"), Mapping):
        return KERAS_3
    arguments, module = config["config"], config.get("module")
    if "is_legacy_optimizer" in arguments:
        is_legacy = bool(arguments["is_legacy_optimizer"])
    elif module is not None:
        is_legacy = "legacy" in str(module).split(".")
    else:
        is_legacy = "decay" in arguments or "lr" in arguments
    return LEGACY if is_legacy else KERAS_3
