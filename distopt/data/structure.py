"""The forms of a batch: an array, or a tuple, list or dict of arrays, with examples on the first axis."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from distopt.errors import InvalidArgumentError

Array = npt.NDArray[Any]


def leaves_of(structure: Any, what: str) -> dict[str, Array]:
    """Return the arrays of ``structure`` by the names they have in it, all of the same length.

    Raises:
        InvalidArgumentError: ``structure`` holds something else than arrays with examples on the first axis, or their
            lengths differ.
    """
    if type(structure) in (tuple, list):
        members = {f"[{position}]": value for position, value in enumerate(structure)}
    elif type(structure) is dict:
        members = {f"[{key!r}]": value for key, value in structure.items()}
    else:
        members = {"": structure}
    if not members:
        raise InvalidArgumentError(f"{what} is an empty {type(structure).__name__}: there are no arrays in it.")
    leaves = {name: _array(value, what + name) for name, value in members.items()}
    lengths = {name: len(leaf) for name, leaf in leaves.items()}
    if len(set(lengths.values())) > 1:
        table = ", ".join(f"{what}{name} {length}" for name, length in lengths.items())
        raise InvalidArgumentError(f"The arrays of {what} must have equally many examples, received {table}.")
    return leaves


def rebuild(structure: Any, arrays: Sequence[Array]) -> Any:
    """Return ``arrays`` in the shape of ``structure``."""
    if type(structure) is dict:
        return dict(zip(structure, arrays, strict=True))
    return type(structure)(arrays) if type(structure) in (tuple, list) else arrays[0]


def _array(value: Any, name: str) -> Array:
    if not hasattr(value, "__array__"):
        raise InvalidArgumentError(
            f"{name} is a {type(value).__name__}, not an array. Expected an array, or a tuple, list or dict"
            " of arrays without deeper nesting; np.asarray makes an array of a list of numbers."
        )
    array = np.asarray(value)
    if array.ndim == 0 or array.dtype.hasobject or array.dtype.names:
        raise InvalidArgumentError(
            f"{name} has shape {array.shape} and dtype {array.dtype}; expected numbers, booleans or strings"
            " with examples on the first axis."
        )
    return array
