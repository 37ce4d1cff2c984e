"""The state of a single replica, as JSON: its position in the data, its random states, the user's own values."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from distopt.checkpoint.extra import decode, encode
from distopt.checkpoint.files import checksum
from distopt.checkpoint.random_state import generator_state, set_state
from distopt.checkpoint.state import Live
from distopt.errors import CheckpointError, InvalidArgumentError
from distopt.process.replica import current_replica

OWN_VARIABLES = "aggregator state or accumulated gradients"


class Resumable(Protocol):
    """Data that knows its position: ``distopt.data.batches``, or a class of your own."""

    def state(self) -> Mapping[str, Any]:
        """Return the position, as JSON can hold it."""

    def resume(self, state: Mapping[str, Any]) -> None:
        """Begin the next iteration at this position."""


@dataclass(frozen=True)
class Own:
    """The state that a replica keeps for itself, beside variables.

    Args:
        data: the data, or None.
        generators: random generators.
        extra: the user's own values, by name.
    """

    data: Resumable | None
    generators: Sequence[Any]
    extra: dict[str, Any]

    @property
    def kinds(self) -> list[str]:
        """Return the names of the states that there are."""
        given = {"data": self.data is not None, "random": bool(self.generators), "extra": bool(self.extra)}
        return [name for name, is_given in given.items() if is_given]

    def state(self) -> dict[str, Any]:
        """Return the state.

        Raises:
            InvalidArgumentError: JSON can't hold the state of ``data``, or a value of the user's.
        """
        state = {
            "data": None if self.data is None else dict(self.data.state()),
            "random": list(map(generator_state, self.generators)),
            "extra": {name: encode(value, f"extra[{name!r}]") for name, value in self.extra.items()},
            "draws": current_replica().draws.state(),
        }
        try:
            json.dumps(state)
        except (TypeError, ValueError) as error:
            raise InvalidArgumentError(
                f"{self.data!r}.state() returned what JSON can't hold ({error}): return numbers, texts, lists and dicts"
            ) from None
        return state

    def restore_own(self, stored: Mapping[str, Any]) -> list[str]:
        """Set the state; return the names of stored states that nobody asked for.

        A value of the user's that was not stored keeps its value.

        Raises:
            CheckpointError: a state that was asked for is not in the checkpoint, or does not fit.
        """
        states = stored.get("random") or []
        if self.generators and len(states) != len(self.generators):
            raise CheckpointError(
                f"the checkpoint holds {len(states)} random states, and random= {len(self.generators)}"
            )
        if self.data is not None and not isinstance(stored.get("data"), dict):
            raise CheckpointError("the checkpoint holds no position in the data: it was saved without data=")
        for k, generator in enumerate(self.generators):
            try:
                set_state(generator, states[k])
            except (ValueError, TypeError, KeyError) as error:
                raise CheckpointError(f"random[{k}] is another kind of generator than was saved: {error}") from None
        if self.data is not None:
            self.data.resume(stored["data"])
        if stored.get("draws"):
            current_replica().draws.restore(stored["draws"])
        self.extra.update({name: decode(value) for name, value in (stored.get("extra") or {}).items()})
        given = {"data": self.data, "random": self.generators}
        return [name for name, given in given.items() if not given and stored.get(name)]

    def put_back(self, state: Mapping[str, Any]) -> None:
        """Return to the state of an earlier moment, after a restore that was refused."""
        self.extra.clear()
        self.restore_own(state)


def own_variables(live: Live) -> dict[str, str]:
    """Return checksums of a replica's own variables, which show whether all replicas have the same."""
    return {key: checksum(entry.bytes.tobytes()) for key, entry in live.own.items()}
