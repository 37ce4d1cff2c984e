"""Schedules as plain dictionaries, and back."""

from __future__ import annotations

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
        made: LearningRateSchedule = cls.from_config(dict(config["config"]))
        return made
