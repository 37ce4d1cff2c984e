"""Optimizers of the legacy family by name, as plain dictionaries, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from distopt.errors import InvalidArgumentError
from distopt.optimizers.by_name.serialization import LEGACY, make, resolve
from distopt.optimizers.legacy.base.optimizer import Optimizer


def deserialize(
    config: Mapping[str, Any],
    custom_objects: Mapping[str, type] | None = None,
    *,
    use_legacy_optimizer: bool = True,
) -> Optimizer:
    """Make the legacy optimizer that a dictionary describes, even if the dictionary names the other family.

    Args:
        config: ``{"module", "class_name", "config", "registered_name"}`` or the short ``{"class_name", "config"}``;
            not changed. The class name's case and underscores do not count.
        custom_objects: classes of your own by name, of optimizers and schedules.
        use_legacy_optimizer: True, as in tf_keras; for the other family there is ``distopt.optimizers.deserialize``.

    Raises:
        InvalidArgumentError: no such dictionary; an unknown class, with the nearest match.
        UnknownArgumentError: an argument of the other family.

    Example:
        >>> deserialize({"class_name": "sgd", "config": {"learning_rate": 0.5}}).get_config()["learning_rate"]
        0.5

    Source: ``tf_keras.optimizers.deserialize`` with ``use_legacy_optimizer``.
    """
    _refuse_other_family("deserialize", use_legacy_optimizer)
    made: Optimizer = make(LEGACY, config, custom_objects, Optimizer)
    return made


def get(
    identifier: Any, custom_objects: Mapping[str, type] | None = None, *, use_legacy_optimizer: bool = True
) -> Optimizer:
    """Return a legacy optimizer: by its name with default arguments, by its dictionary, or the optimizer given.

    Args:
        identifier: a name (case and underscores do not count), a dictionary, or a legacy optimizer.
        custom_objects: classes of your own by name.
        use_legacy_optimizer: True, as in tf_keras; for the other family there is ``distopt.optimizers.get``.

    Raises:
        InvalidArgumentError: an unknown name, with the nearest match; something else.

    Example:
        >>> get("adam").get_config()["decay"]
        0.0

    Source: ``tf_keras.optimizers.get`` with ``use_legacy_optimizer``.
    """
    _refuse_other_family("get", use_legacy_optimizer)
    found: Optimizer = resolve(LEGACY, identifier, custom_objects, Optimizer)
    return found


def _refuse_other_family(function: str, use_legacy_optimizer: bool) -> None:
    if not use_legacy_optimizer:
        raise InvalidArgumentError(
            f"distopt.optimizers.legacy.{function} received use_legacy_optimizer={use_legacy_optimizer!r}: for the "
            f"Keras 3 family call distopt.optimizers.{function}"
        )
