"""Says which part of a training function, or of its argument, can't be sent to the workers."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ray import cloudpickle
from ray.util import inspect_serializability


def explain_unpicklable(function: Callable[..., Any], config: Mapping[str, Any]) -> str | None:
    """Return which object can't be sent to the workers and what to do, or None where all of them can.

    Example:
        >>> import threading
        >>> explain_unpicklable(print, {"steps": 3, "guard": threading.Lock()})
        "train_loop_config['guard'], a lock, can't be sent to the workers (TypeError: cannot pickle '_thread.lock' \
object): send what it is made from, and make it in the training function"
    """
    for key, value in config.items():
        if (obstacle := _obstacle(value)) is not None:
            return (
                f"train_loop_config[{key!r}], a {type(value).__name__}, can't be sent to the workers ({obstacle}): "
                "send what it is made from, and make it in the training function"
            )
    if (obstacle := _obstacle(function)) is None:
        return None
    _, parts = inspect_serializability(function, print_file=io.StringIO())
    names = " and ".join(sorted({f"{_variable(part.path)} (a {type(part.obj).__name__})" for part in parts}))
    return (
        f"the training function {getattr(function, '__qualname__', function)!r} uses {names}, which can't be sent to "
        f"the workers ({obstacle}): make it inside the function, or in a module that the function imports"
    )


def _variable(path: Sequence[str | None]) -> str:
    return repr(path[-1]) if path and path[-1] else "something"


def _obstacle(value: Any) -> str | None:
    try:
        cloudpickle.dumps(value)
    except Exception as error:  # whatever a class of the user's raises
        return f"{type(error).__name__}: {error}"
    return None
