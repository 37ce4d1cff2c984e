"""Schedules as plain dictionaries, and back."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from distopt.errors import InvalidArgumentError
from distopt.optimizers.schedules.cosine_decay import CosineDecay
from distopt.optimizers.schedules.exponential_decay import ExponentialDecay
from distopt.optimizers.schedules.polynomial_decay import PolynomialDecay
from distopt.optimizers.schedules.schedule import LearningRateSchedule

_OURS: dict[str, type[LearningRateSchedule]] = {
    cls.__name__: cls for cls in (CosineDecay, ExponentialDecay, PolynomialDecay)
}


def serialize(schedule: LearningRateSchedule) -> dict[str, Any]:
    """Return ``schedule`` as a dictionary that ``deserialize`` reads.

    Args:
        schedule: a schedule whose class has ``get_config``.

    Returns:
        ``{"module", "class_name", "config", "registered_name"}``; ``registered_name`` is None for the
        schedules of distopt and the class name for others, which ``deserialize`` needs in ``custom_objects``.

    Raises:
        InvalidArgumentError: ``schedule`` is not a schedule.

    Example:
        >>> serialize(ExponentialDecay(1.0, 10, 0.5))["class_name"]
        'ExponentialDecay'

    Source: the format of Keras 3, ``keras.optimizers.schedules.serialize``.
    """
    if not isinstance(schedule, LearningRateSchedule):
        raise InvalidArgumentError(f"serialize expected a LearningRateSchedule, received {schedule!r}.")
    cls = type(schedule)
    ours = _OURS.get(cls.__name__) is cls
    return {
        "module": "distopt.optimizers.schedules" if ours else cls.__module__,
        "class_name": cls.__name__,
        "config": schedule.get_config(),
        "registered_name": None if ours else cls.__name__,
    }


def deserialize(
    config: Mapping[str, Any], custom_objects: Mapping[str, type[LearningRateSchedule]] | None = None
) -> LearningRateSchedule:
    """Make the schedule that ``serialize`` described.

    Args:
        config: the dictionary (not mutated); ``class_name`` and ``config`` are read, so that dictionaries of
            Keras and the short old form ``{"class_name", "config"}`` are understood too.
        custom_objects: classes of the user's own by class name; they win over those of distopt.

    Raises:
        InvalidArgumentError: ``config`` is no such dictionary, or its class is unknown.

    Example:
        >>> deserialize(serialize(CosineDecay(0.1, 10)))(0)
        np.float32(0.1)

    Source: Keras 3, ``keras.optimizers.schedules.deserialize``.
    """
    if not isinstance(config, Mapping) or "class_name" not in config or "config" not in config:
        raise InvalidArgumentError(
            f"A schedule's dictionary has the keys 'class_name' and 'config', received {config!r}."
        )
    known = {**_OURS, **(custom_objects or {})}
    name = config["class_name"]
    if name not in known:
        nearest = get_close_matches(str(name), known, n=1)
        hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
        raise InvalidArgumentError(
            f"Unknown learning rate schedule {name!r}; known are {', '.join(sorted(known))}.{hint}"
            f" Pass a class of your own as custom_objects={{{name!r}: YourClass}}."
        )
    return known[name].from_config(dict(config["config"]))
