"""The state of a single replica, as JSON: its position in the data, its random states."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from distopt.checkpoint.files import checksum
from distopt.checkpoint.random_state import generator_state, set_state
from distopt.checkpoint.state import Live
from distopt.errors import CheckpointError, InvalidArgumentError

OWN_VARIABLES = "aggregator state or accumulated gradients"


class Resumable(Protocol):
    """Data that knows its position: ``distopt.data.batches``, or a class of your own."""

    def state(self) -> Mapping[str, Any]:
        """Return the position, as JSON can hold it."""

    def resume(self, state: Mapping[str, Any]) -> None:
        """Begin the next iteration at this position."""


def own_state(live: Live, data: Resumable | None, generators: Sequence[Any]) -> dict[str, Any]:
    """Return this replica's own state; its variables only as checksums, which show whether all replicas have the same.

    Raises:
        InvalidArgumentError: JSON can't hold the state of ``data``.
    """
    state = {
        "data": None if data is None else dict(data.state()),
        "random": list(map(generator_state, generators)),
        OWN_VARIABLES: {key: checksum(entry.bytes.tobytes()) for key, entry in live.own.items()},
    }
    try:
        json.dumps(state)
    except (TypeError, ValueError) as error:
        raise InvalidArgumentError(
            f"{data!r}.state() returned what JSON can't hold ({error}): return numbers, texts, lists and dicts"
        ) from None
    return state


def restore_own(own: Mapping[str, Any], data: Resumable | None, generators: Sequence[Any]) -> list[str]:
    """Set the position in the data and the random states; return the names of stored states that nobody asked for.

    Raises:
        CheckpointError: a state that was asked for is not in the checkpoint, or does not fit.
    """
    states = own.get("random") or []
    if generators and len(states) != len(generators):
        raise CheckpointError(f"the checkpoint holds {len(states)} random states, and random= {len(generators)}")
    if data is not None:
        if not isinstance(own.get("data"), dict):
            raise CheckpointError("the checkpoint holds no position in the data: it was saved without data=")
        data.resume(own["data"])
    for k, generator in enumerate(generators):
        try:
            set_state(generator, states[k])
        except (ValueError, TypeError, KeyError) as error:
            raise CheckpointError(f"random[{k}] is another kind of generator than was saved: {error}") from None
    return [name for name, given in (("data", data), ("random", generators)) if not given and own.get(name)]
