"""Makes exceptions travel between processes, whatever they are: their text and traceback arrive at least.

A class of the user's may not come back from a pickle: its ``__init__`` takes other arguments than ``args`` has, its
module can't be imported where it arrives, it holds a lock. Ray would tell of the pickle, and nothing of the exception.
"""

from __future__ import annotations

import traceback

from ray import cloudpickle

from distopt.errors import CarriedError


def make_portable(error: BaseException) -> None:
    """Make an exception arrive in another process as it is, or else as a ``CarriedError``.

    The exception itself stays what it is: only its pickle is another.
    """
    notes = list(getattr(error, "__notes__", []))
    text = "".join(traceback.format_exception(error))
    try:
        data, obstacle = cloudpickle.dumps(error), ""
    except Exception as reason:  # whatever a class of the user's raises
        data, obstacle = None, f"{type(reason).__name__}: {reason}"
    parcel = (data, type(error).__qualname__, text, obstacle, notes)
    object.__setattr__(error, "__reduce_ex__", lambda protocol: (_unpack, parcel))


def _unpack(data: bytes | None, name: str, text: str, obstacle: str, notes: list[str]) -> BaseException:
    error: object = None
    if data is not None:
        try:
            error = cloudpickle.loads(data)
        except Exception as reason:
            obstacle = f"{type(reason).__name__}: {reason}"
    if not isinstance(error, BaseException):
        error = CarriedError(f"{text.strip()}\n({name} itself can't travel between processes: {obstacle})")
    if notes:
        object.__setattr__(error, "__notes__", notes)
    return error
