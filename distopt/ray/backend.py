"""The adapter to Ray Train's developer API: workers become the replicas of a group before the training function runs.

The parts of Ray that may change between its minor releases are used in this file only, which checks Ray's version.
"""

from __future__ import annotations

import functools
import os
import secrets
import socket
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any

import ray

from distopt.distribute.transports.connections.introductions import SECRET_BYTES
from distopt.distribute.transports.connections.peers import Member, Peers, listen
from distopt.errors import DeadCommunicatorError, DistoptError, MissingExtraError, ReplicaFailedError, ReplicaLostError
from distopt.program import script
from distopt.ray.group import announce, current_group, join

if not ray.__version__.startswith(SUPPORTED := "2.60."):
    raise DistoptError(
        f"distopt's trainer works with Ray {SUPPORTED}*, and this is {ray.__version__}: pip install 'distopt[ray]'; "
        "distopt.ray.init_group, for actors of your own, uses Ray's stable API only"
    )
try:
    from ray.train import WorkerGroupError
    from ray.train.backend import Backend, BackendConfig
    from ray.train.v2._internal.execution.context import get_train_context
    from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer
except ImportError as error:
    raise MissingExtraError("ray[train]", "ray", "distopt's trainer") from error

__all__ = ["DataParallelTrainer", "DistoptConfig", "address_in_use", "cause_of", "needs_of", "status_of"]

_CONSEQUENCES = (ReplicaFailedError, ReplicaLostError, DeadCommunicatorError)

_NOT_THE_USERS = (os.path.dirname(__file__), os.path.dirname(ray.__file__), script.__file__)

_GIVE_WAY_SECONDS = 1.0

_listener: list[socket.socket] = []


@dataclass
class DistoptConfig(BackendConfig):
    """The settings of distopt in Ray Train.

    Args:
        directory: where the training function runs on every node; None: where Ray Train puts it.
    """

    directory: str | None = None

    @property
    def backend_cls(self) -> type[Backend]:
        """Return the class that forms the group of replicas."""
        return DistoptBackend

    @property
    def train_func_context(self) -> Callable[[], _Membership]:
        """Return the context manager in which each worker calls the training function."""
        return functools.partial(_Membership, self.directory)


class _Membership:
    """Makes the worker a replica until its training function ends; an exit with status 0 counts as a normal end."""

    def __init__(self, directory: str | None) -> None:
        self._directory = directory

    def __enter__(self) -> None:
        self._group = current_group()
        failures = get_train_context().execution_context.training_thread_runner.get_exception_queue()
        self._group.on_thread_failure = failures.put
        if self._directory is not None:
            _enter_directory(self._directory)
        self._group.__enter__()

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> bool:
        ends_well = isinstance(error, SystemExit) and not error.code
        if error is not None and not ends_well:
            error.add_note("".join(traceback.format_exception(kind, error, in_user_code(trace))))
        self._group.__exit__(None if ends_well else kind, None if ends_well else error, trace)
        if isinstance(error, _CONSEQUENCES):
            time.sleep(_GIVE_WAY_SECONDS)  # Ray Train ends all workers at the first error that it sees
        return ends_well


def _enter_directory(directory: str) -> None:
    """Make relative paths lead where they lead for the driver, where the node has that directory."""
    try:
        os.chdir(directory)
    except OSError as error:
        print(
            f"distopt: {error}: it is the trainer's directory, and this node has none; relative paths lead to "
            f"{os.getcwd()}, which goes with the Ray session: put {directory} on a file system that all nodes share, "
            "or use absolute paths",
            file=sys.stderr,
        )


class DistoptBackend(Backend):
    """Forms the group; runs in Ray Train's controller."""

    def on_start(self, worker_group: Any, backend_config: BackendConfig) -> None:
        """Give the workers each other's addresses and a secret, and let them connect."""
        members = worker_group.execute(announce)
        ports = worker_group.execute(_listen, [member.node for member in members])
        members = [replace(member, port=port) for member, port in zip(members, ports, strict=True)]
        secret = secrets.token_bytes(SECRET_BYTES)
        ray.get([worker_group.execute_single_async(r, _join, r, members, secret) for r in range(len(members))])


def _listen(nodes: Sequence[str]) -> int:
    _listener[:] = [listen(announce(), nodes)]
    return int(_listener[0].getsockname()[1])


def _join(index: int, members: Sequence[Member], secret: bytes) -> None:
    join(Peers(index, members, secret, _listener.pop()))


def address_in_use() -> str | None:
    """Return the address that ``ray.init()`` would use: RAY_ADDRESS, else that of the last ``ray start``, or None."""
    address: str | None = os.environ.get("RAY_ADDRESS") or ray._private.services.find_bootstrap_address(None)
    return address


def needs_of(scaling: Any) -> dict[str, float]:
    """Return the resources that each worker of a ``ScalingConfig`` needs."""
    needs: dict[str, float] = scaling._resources_per_worker_not_none
    return needs


def cause_of(failure: WorkerGroupError) -> tuple[int, str]:
    """Return the index and the error of the replica that failed first, not of one that only heard of a failure."""
    rank, error = _first(failure)
    if isinstance(error, ReplicaFailedError):
        return error.replica_index, str(error).removeprefix(f"replica {error.replica_index} failed: ")
    return rank, (getattr(error, "__notes__", None) or traceback.format_exception_only(error))[-1].strip()


def status_of(failure: WorkerGroupError) -> int:
    """Return the exit status that a process with this failure would have."""
    error: BaseException = _first(failure)[1]
    return error.code if isinstance(error, SystemExit) and isinstance(error.code, int) else 1


def _first(failure: WorkerGroupError) -> tuple[int, Exception]:
    failures: list[tuple[int, Exception]] = sorted(failure.worker_failures.items())
    return next((each for each in failures if not isinstance(each[1], _CONSEQUENCES)), failures[0])


def in_user_code(trace: TracebackType | None) -> TracebackType | None:
    """Return the part of a traceback that begins in the user's code."""
    begin = trace
    while begin is not None and begin.tb_frame.f_code.co_filename.startswith(_NOT_THE_USERS):
        begin = begin.tb_next
    return begin or trace
