"""The state of random generators, as JSON: nothing is pickled."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from distopt.errors import InvalidArgumentError


def checked_generators(generators: Any) -> list[Any]:
    """Return the generators whose state can be kept.

    Raises:
        InvalidArgumentError: an object is no such generator.
    """
    if not isinstance(generators, Sequence) or isinstance(generators, str):
        raise InvalidArgumentError(
            f"Checkpointer(random={generators!r}): expected a tuple of generators; write (rng,) for one"
        )
    for generator in generators:
        generator_state(generator)
    return list(generators)


def generator_state(generator: Any) -> Any:
    """Return the state of a generator.

    Args:
        generator: a NumPy ``Generator`` or ``RandomState`` (or the module ``numpy.random``), ``random.Random`` (or the
            module ``random``).

    Raises:
        InvalidArgumentError: ``generator`` is something else.

    Example:
        >>> import random
        >>> source = random.Random(1)
        >>> state, first = generator_state(source), source.random()
        >>> set_state(source, state)
        >>> source.random() == first
        True
    """
    if isinstance(generator, np.random.Generator):
        return _to_json(generator.bit_generator.state)
    if hasattr(generator, "get_state"):
        return _to_json(generator.get_state(legacy=False))
    if hasattr(generator, "getstate") and not isinstance(generator, type):
        return _to_json(generator.getstate())
    raise InvalidArgumentError(
        f"Checkpointer(random=...): {generator!r} is no random generator: expected numpy.random.Generator, "
        "numpy.random.RandomState or random.Random"
    )


def set_state(generator: Any, state: Any) -> None:
    """Set the state of a generator to one that ``generator_state`` returned.

    Raises:
        ValueError: the state is from another kind of generator (TypeError and KeyError are possible too).
    """
    if isinstance(generator, np.random.Generator):
        generator.bit_generator.state = _from_json(state)
    elif hasattr(generator, "get_state"):
        generator.set_state(_from_json(state))
    else:
        version, numbers, gauss = _from_json(state)
        generator.setstate((version, tuple(numbers), gauss))


def _to_json(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _to_json(inner) for key, inner in value.items()}
    if isinstance(value, np.ndarray):
        return {"dtype": value.dtype.name, "values": value.tolist()}
    if isinstance(value, (list, tuple)):
        return [_to_json(inner) for inner in value]
    return value.item() if isinstance(value, np.generic) else value


def _from_json(value: Any) -> Any:
    if isinstance(value, dict):
        if value.keys() == {"dtype", "values"}:
            return np.array(value["values"], np.dtype(value["dtype"]))
        return {key: _from_json(inner) for key, inner in value.items()}
    return [_from_json(inner) for inner in value] if isinstance(value, list) else value
