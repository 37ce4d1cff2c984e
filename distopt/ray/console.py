"""Brings the output of replicas to the terminal of the person who started them, as it is printed."""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import threading
from collections.abc import Iterator
from typing import Any

import ray

from distopt.speaking import flush, write_bytes

_CHUNK = 1 << 16
_REST_OF_LINE_SECONDS = 0.02
"""Seconds that an incomplete line waits for its rest, so that lines of replicas that come in pieces are not mixed."""


class _Console:
    """An actor on the node of the terminal; everything that replicas print passes through it."""

    def __init__(self) -> None:
        self._texts: asyncio.Queue[tuple[int, bytes] | None] = asyncio.Queue()
        self._attempts: dict[int, int] = {}

    async def put(self, stream: int, data: bytes) -> None:
        """Take bytes that a replica has printed on its file descriptor 1 or 2."""
        await self._texts.put((stream, data))

    async def next_texts(self) -> list[tuple[int, bytes]] | None:
        """Wait for output and return all that has come; None at the end."""
        texts = [await self._texts.get()]
        while not self._texts.empty():
            texts.append(self._texts.get_nowait())
        if None in texts:
            await self._texts.put(None)
        return [text for text in texts if text] or None

    async def end(self) -> None:
        """Note that there will be no more output."""
        await self._texts.put(None)

    async def attempt(self, replica: int) -> int:
        """Return how many times this replica has begun before."""
        self._attempts[replica] = self._attempts.get(replica, -1) + 1
        return self._attempts[replica]


@contextlib.contextmanager
def console() -> Iterator[Any]:
    """Write the output of replicas to this process's streams; yield the actor that takes their output."""
    here = ray.get_runtime_context().get_node_id()
    actor = ray.remote(_Console).options(num_cpus=0, label_selector={"ray.io/node-id": here}).remote()

    def show() -> None:
        while (texts := ray.get(actor.next_texts.remote())) is not None:
            for stream, data in texts:
                write_bytes(stream, data)

    thread = threading.Thread(target=show, name="distopt console", daemon=True)
    thread.start()
    try:
        yield actor
    finally:
        ray.get(actor.end.remote())
        thread.join()
        ray.kill(actor)


@contextlib.contextmanager
def printing_to(actor: Any, head: bytes = b"") -> Iterator[None]:
    """Send all output of this process, from any library, to a console; leave the block when all of it has arrived.

    Args:
        actor: the console.
        head: what each line begins with.
    """
    with contextlib.ExitStack() as stack:
        for stream in (1, 2):
            stack.enter_context(_sent(stream, actor, head))
        yield


@contextlib.contextmanager
def _sent(stream: int, actor: Any, head: bytes) -> Iterator[None]:
    reading, writing = os.pipe()
    before = os.dup(stream)
    os.dup2(writing, stream)
    os.close(writing)
    puts: list[Any] = []

    def send() -> None:
        while data := os.read(reading, _CHUNK):
            while data[-1:] != b"\n" and select.select([reading], [], [], _REST_OF_LINE_SECONDS)[0]:
                if not (more := os.read(reading, _CHUNK)):
                    break
                data += more
            lines = data.splitlines(keepends=True) if head else [data]
            puts.append(actor.put.remote(stream, b"".join(head + line for line in lines)))
            del puts[:-1]  # they arrive in order: the last one tells of all

    thread = threading.Thread(target=send, name="distopt console", daemon=True)
    thread.start()
    try:
        yield
    finally:
        flush()
        os.dup2(before, stream)
        os.close(before)
        thread.join()
        ray.get(puts)
        os.close(reading)
