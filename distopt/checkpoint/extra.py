"""Values of the user's own, as JSON: what JSON has no notation for stands in a dict that says what it is.

An array is ``{"array": ...}``, a dict ``{"dict": ...}``, and a float that is not finite ``{"float": ...}``. So every
value comes back as it was, bit for bit, and equal values are equal as JSON.
"""

from __future__ import annotations

import base64
import math
from typing import Any

import numpy as np

from distopt.arrays import to_dtype
from distopt.checkpoint.files import DTYPES
from distopt.errors import InvalidArgumentError
from distopt.variables.array_like import Traced, stop_gradient


def checked_extra(extra: Any) -> dict[str, Any]:
    """Return the dict of the user's values.

    Raises:
        InvalidArgumentError: it is none, or holds what can't be saved.
    """
    if not isinstance(extra, dict):
        raise InvalidArgumentError(
            f"Checkpointer(extra={extra!r}): expected a dict of values by name, which restore() can write to"
        )
    encode(extra, "extra")
    return extra


def encode(value: Any, path: str) -> Any:
    """Return a value as JSON can hold it.

    Args:
        value: a number, a string, True, False, None, an array, or a list or dict of these.
        path: its position in ``extra``, for messages.

    Raises:
        InvalidArgumentError: something else, or a dict whose keys are no strings.

    Example:
        >>> decode(encode({"best": float("inf"), "history": [1, np.float32(0.5)]}, "extra"))
        {'best': inf, 'history': [1, np.float32(0.5)]}
    """
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {"dict": {key: encode(item, f"{path}[{key!r}]") for key, item in value.items()}}
    if isinstance(value, list):
        return [encode(item, f"{path}[{k}]") for k, item in enumerate(value)]
    if isinstance(value, (np.ndarray, np.generic, Traced)):
        array = np.asarray(stop_gradient(value))
        if array.dtype.name in DTYPES and not isinstance(value, np.ma.MaskedArray):
            content = base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()
            return {"array": [array.dtype.name, list(array.shape), content]}
    elif isinstance(value, float) and not math.isfinite(value):
        return {"float": repr(value)}
    elif value is None or type(value) in (bool, int, float, str):
        return value
    raise InvalidArgumentError(
        f"Checkpointer: {path} is {value!r}, a {type(value).__name__}: expected a number, a string, an array, or a "
        "list or dict (with strings as keys) of these. A Variable belongs into variables=[...]"
    )


def decode(value: Any) -> Any:
    """Return the value that ``encode`` has made JSON of; arrays are new, and may be written to."""
    if isinstance(value, list):
        return list(map(decode, value))
    if not isinstance(value, dict):
        return value
    (kind, content), *_ = value.items()
    if kind == "dict":
        return {key: decode(item) for key, item in content.items()}
    if kind == "float":
        return float(content)
    dtype, shape, text = content
    return np.frombuffer(base64.b64decode(text), to_dtype(dtype)).reshape(shape).copy()[()]
