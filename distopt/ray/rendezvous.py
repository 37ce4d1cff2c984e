"""Lets the replicas of a group meet before they know each other's addresses, through an actor that ends afterwards."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable
from typing import Any, TypeVar

import ray
from ray.exceptions import ActorDiedError, ActorUnavailableError, GetTimeoutError

from distopt.distribute.transports.connections.introductions import SECRET_BYTES
from distopt.errors import InvalidArgumentError, ReplicaError

NAMESPACE = "distopt"
_AGAIN_SECONDS = 0.1

T = TypeVar("T")


class _Rendezvous:
    """The actor: in each round it gives every replica the contributions of all."""

    def __init__(self, count: int) -> None:
        self._count, self._secret = count, secrets.token_bytes(SECRET_BYTES)
        self._rounds: list[dict[int, Any]] = [{}, {}]
        self._changed = asyncio.Condition()

    async def exchange(self, number: int, index: int, count: int, mine: Any) -> tuple[list[Any], bytes] | str:
        """Return all contributions in the order of the replicas, and the group's secret; or a complaint as a text."""
        brought = self._rounds[number]
        if count != self._count:
            return f"it says that there are {count} replicas, and another one has said {self._count}"
        if brought.get(index, mine) != mine:
            return f"there is another replica {index} already, in {brought[index]}"
        async with self._changed:
            brought[index] = mine
            self._changed.notify_all()
            await self._changed.wait_for(lambda: len(brought) == count)
        return [brought[r] for r in range(count)], self._secret

    async def missing(self, number: int) -> list[int]:
        """Return the indices of the replicas that have not come to a round."""
        return sorted(set(range(self._count)) - self._rounds[number].keys())


class Rendezvous:
    """One replica's way to meet the others of its group.

    Args:
        name: the name of the group, which belongs to its Ray job.
        index: this replica's index.
        count: the number of replicas.
        seconds: the longest time to wait for the others.
    """

    def __init__(self, name: str, index: int, count: int, seconds: float) -> None:
        self._name, self._index, self._count = name, index, count
        self._deadline = time.monotonic() + seconds
        self._seconds = seconds
        self._actor: Any = None  # kept: it ends when who has made it drops the handle

    def exchange(self, number: int, mine: Any) -> tuple[list[Any], bytes]:
        """Contribute ``mine`` to a round; return the contributions of all replicas and the group's secret.

        Raises:
            ReplicaError: not all replicas have come in time.
            InvalidArgumentError: the replicas contradict each other about their indices or their number.
        """
        answer: tuple[list[Any], bytes] | str = self._patiently(
            lambda actor: ray.get(
                actor.exchange.remote(number, self._index, self._count, mine), timeout=self._deadline - time.monotonic()
            ),
            number,
        )
        if isinstance(answer, str):
            raise InvalidArgumentError(
                f"replica {self._index} of the group {self._name!r} can't join it: {answer}. Every replica needs an "
                "index of its own, 0 ... count - 1; a group that is formed again needs a new name while replicas of "
                "the old one are still forming it"
            )
        return answer

    def end(self) -> None:
        """End the actor, once all replicas have met."""
        ray.kill(self._actor)

    def _patiently(self, ask: Callable[[Any], T], number: int) -> T:
        while True:
            try:
                self._actor = self._actor or self._find()
                return ask(self._actor)
            except (ActorDiedError, ActorUnavailableError):  # that of an earlier group of this name, which is ending
                if time.monotonic() > self._deadline:
                    raise
                self._actor = None
                time.sleep(_AGAIN_SECONDS)
            except GetTimeoutError:
                missing = ", ".join(map(str, ray.get(self._actor.missing.remote(number), timeout=self._seconds)))
                self.end()
                raise ReplicaError(
                    f"replica {self._index} of the group {self._name!r} has waited {self._seconds:g} s for replica "
                    f"{missing} of {self._count}: every one must call init_group with its index, {self._count} and "
                    f"{self._name!r}, at the same time and in the same Ray job (in actors: start all calls before you "
                    "wait for one)"
                ) from None

    def _find(self) -> Any:
        """Return the actor of the group's name in this job; the first replica that asks for the actor makes it."""
        name = f"distopt group {self._name} of job {ray.get_runtime_context().get_job_id()}"
        actor = ray.remote(_Rendezvous).options(
            name=name, namespace=NAMESPACE, get_if_exists=True, num_cpus=0, max_concurrency=1000
        )
        return actor.remote(self._count)
