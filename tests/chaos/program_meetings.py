"""Where the replicas of a model meet: coroutines in lockstep, in one thread.

A coroutine stops where replicas meet: it yields what must agree there and what it brings. Where all agree, each gets
what all have brought; where they don't, an error.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any

Meeting = Generator[Any, Any, Any]
GONE = "another replica has ended"
OFFER = "offers its own exception"


class Refused(Exception):  # noqa: N818 (it stands for exceptions of many names)
    """A call fails, with an exception of this name."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


def run_in_lockstep(coroutines: Sequence[Meeting]) -> None:
    """Run every replica's coroutine to its end."""
    waiting: dict[int, Any] = {}

    def go_on(index: int, result: Any) -> None:
        coroutine = coroutines[index]
        try:
            waiting[index] = coroutine.throw(result) if isinstance(result, Refused) else coroutine.send(result)
        except StopIteration:
            waiting.pop(index, None)

    for index in range(len(coroutines)):
        go_on(index, None)
    while waiting:
        for index, result in outcomes(dict(sorted(waiting.items())), len(coroutines)).items():
            go_on(index, result)


def outcomes(waiting: dict[int, Any], count: int) -> dict[int, Any]:
    """What becomes of a meeting, for each replica that waits in it."""
    keys = {index: key for index, (key, _) in waiting.items()}
    if len(waiting) < count:
        return {index: Refused(GONE) for index in waiting}
    if any(key == (OFFER,) for key in keys.values()):
        own = {True: "InvalidArgumentError", False: "ReplicaFailedError"}
        return {index: Refused(own[key == (OFFER,)]) for index, key in keys.items()}
    if any(key != keys[0] for key in keys.values()):
        return {index: Refused("CollectiveMismatchError") for index in waiting}
    everything = [brought for _, brought in waiting.values()]
    return dict.fromkeys(waiting, everything)
