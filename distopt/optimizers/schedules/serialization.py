"""Schedules as plain dictionaries, and back."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from distopt.errors import InvalidArgumentError
from distopt.optimizers.schedules.schedule import LearningRateSchedule
from distopt.registry import describe, find, passing

_PACKAGE = "distopt.optimizers.schedules"


def serialize(schedule: LearningRateSchedule) -> dict[str, Any]:
    """Return ``schedule`` as a dictionary that ``deserialize`` reads.

    Args:
        schedule: a schedule whose class has ``get_config``.

    Returns:
        ``{"module", "class_name", "config", "registered_name"}``; ``registered_name`` is None for the
        schedules of distopt and the class name for others: ``deserialize`` needs them registered
        (``distopt.optimizers.register``) or in ``custom_objects``.

    Raises:
        InvalidArgumentError: ``schedule`` is not a schedule, or its config can't be written as JSON.

    Example:
        >>> import distopt
        >>> serialize(distopt.optimizers.schedules.ExponentialDecay(1.0, 10, 0.5))["class_name"]
        'ExponentialDecay'

    Source: the format of Keras 3, ``keras.optimizers.schedules.serialize``.
    """
    if not isinstance(schedule, LearningRateSchedule):
        raise InvalidArgumentError(f"serialize expected a LearningRateSchedule, received {schedule!r}.")
    config = schedule.get_config()
    nested = {name: serialize(value) for name, value in config.items() if isinstance(value, LearningRateSchedule)}
    if nested:  # a twin tells of schedules inside by their dictionaries
        schedule = copy.copy(schedule)
        schedule.get_config = lambda: config | nested  # type: ignore[method-assign]
    return describe(schedule, _PACKAGE, LearningRateSchedule)


def deserialize(config: Mapping[str, Any], custom_objects: Mapping[str, type] | None = None) -> LearningRateSchedule:
    """Make the schedule that ``serialize`` described.

    Args:
        config: the dictionary (not mutated); ``class_name`` and ``config`` are read, so that dictionaries of
            Keras and the short old form ``{"class_name", "config"}`` are understood too.
        custom_objects: classes of the user's own by class name; they win over those of distopt.

    Raises:
        InvalidArgumentError: ``config`` is no such dictionary, or its class is unknown.

    Example:
        >>> import distopt
        >>> deserialize(serialize(distopt.optimizers.schedules.CosineDecay(0.1, 10)))(0)
        np.float32(0.1)

    Source: Keras 3, ``keras.optimizers.schedules.deserialize``.
    """
    with passing(custom_objects):
        cls = find("a learning rate schedule", config, _PACKAGE, LearningRateSchedule)
        arguments = dict(config["config"])
        if not _reads_schedules(cls):
            arguments = {name: deserialize(v) if _is_schedule(v) else v for name, v in arguments.items()}
        made: LearningRateSchedule = cls.from_config(arguments)
        return made


def _reads_schedules(cls: Any) -> bool:
    """Return whether a class reads dictionaries of other schedules itself."""
    return getattr(cls.from_config, "__func__", None) is not vars(LearningRateSchedule)["from_config"].__func__


def _is_schedule(value: Any) -> bool:
    return (
        isinstance(value, Mapping)
        and isinstance(value.get("config"), Mapping)
        and isinstance(value.get("class_name"), str)
        and not value["class_name"].startswith("__")  # such as the number of a dtype
    )
