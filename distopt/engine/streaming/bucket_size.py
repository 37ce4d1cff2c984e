"""The size of the buckets of a streamed step: measured once, when the stream is made; no result depends on it."""

from __future__ import annotations

import functools
import os
import struct
import time

import numpy as np

from distopt.distribute.agreement.header import exchange_bytes
from distopt.distribute.node.node import Node
from distopt.distribute.node.node_sum import NodeSum
from distopt.memory.layout import new_segment
from distopt.settings import BUCKET_BYTES, THREADS
from distopt.speaking import say

LARGEST = 64 << 20
_SMALL, _LARGE = 1 << 16, 1 << 22
_TURNS = 5
_OVERHEAD = 0.1
"""The share of a bucket's time that may go into starting its sum."""


def bucket_bytes(node: Node) -> int | None:
    """Return the size of a bucket; None where sums are better left to the end of the step (collective).

    Where all replicas run on one node and none of its cores is free, a communication thread would only take turns with
    the backward pass.

    Args:
        node: the communication thread's.
    """
    configured = BUCKET_BYTES.read()
    if configured is not None:
        return configured
    if node.is_whole_job and not _has_free_core(node):
        _say(node, "gradients are summed at the end of a step: the replicas leave no core to a communication thread")
        return None
    mine = struct.pack("<q", _measured(node))
    size: int = struct.unpack("<q", exchange_bytes(node.communicator, mine)[0])[0]
    _say(node, f"gradients are summed in buckets of {size / 1e6:.2g} MB while the backward pass goes on")
    return size


def _has_free_core(node: Node) -> bool:
    """Return whether every replica has a core beside those that it and others with the same cores compute on."""
    cores = exchange_bytes(node.communicator, repr(sorted(os.sched_getaffinity(0))).encode())
    sharing = [cores.count(each) for each in cores]
    return all(each.count(b",") + 1 > sharing[r] * THREADS.read() for r, each in enumerate(cores))


def _measured(node: Node) -> int:
    """Fit seconds = start + bytes * rate to two sizes, and make the start a small part of a bucket's time."""
    segment = new_segment(_LARGE)
    slabs = [raw.view(np.float32) for raw in node.share(segment)]
    seconds = {}
    for size in (_SMALL, _LARGE):
        count, replicas = size // 4, node.communicator.size
        ranges = [[(count * r // replicas, count * (r + 1) // replicas)] for r in range(replicas)]
        add, times = NodeSum(node, slabs, ranges), []
        for _ in range(_TURNS):
            node.barrier()
            begin = time.perf_counter()
            add()
            node.barrier()
            times.append(time.perf_counter() - begin)
        seconds[size] = sorted(times)[_TURNS // 2]
    rate = max(seconds[_LARGE] - seconds[_SMALL], 1e-9) / (_LARGE - _SMALL)
    start = max(seconds[_SMALL] - rate * _SMALL, 0.0)
    return int(min(max(start / rate / _OVERHEAD, _SMALL), LARGEST))


def _say(node: Node, text: str) -> None:
    if node.communicator.index == 0:
        _print_once(f"distopt: {text} ({BUCKET_BYTES.name}=n fixes n bytes)")


@functools.cache
def _print_once(text: str) -> None:
    say(text)
