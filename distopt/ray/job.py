"""Runs a script as a Ray job: ``distopt run --backend ray``."""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.train import FailureConfig, RunConfig, ScalingConfig, WorkerGroupError, get_context

from distopt.distribute.collectives import replica_index
from distopt.errors import DistoptError
from distopt.program import script as program
from distopt.ray.backend import address_in_use, cause_of, status_of
from distopt.ray.capacity import check_cores
from distopt.ray.console import console, printing_to
from distopt.ray.trainer import DistoptTrainer
from distopt.settings import given
from distopt.testing.faults.injection import inject

_ANSWER_SECONDS = 5.0

# Of Ray Train's, where the person has not set them: paths are relative to where they are, what is printed is printed
# once and not logged, and the end is noticed soon.
_TRAIN_SETTINGS = {
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    "RAY_TRAIN_METRICS_ENABLED": "0",
}


@dataclass(frozen=True)
class Script:
    """The script that every replica runs.

    Args:
        command: the script (an absolute path) or ``-m`` and a module, then the arguments.
        directory: the directory in which the person started the script, and in which it runs.
        faults: the faults to inject in the first attempt.
        has_prefix: whether each line of output is headed by its replica.
    """

    command: Sequence[str]
    directory: str
    faults: Sequence[str] = ()
    has_prefix: bool = False


def run_job(script: Script, replicas: int, max_restarts: int) -> tuple[int, str]:
    """Run a script on N workers of a Ray cluster; return the exit status, and a sentence on the failure or "".

    The cluster is that of ``RAY_ADDRESS``, else the one that was started on this machine (``ray start --head``), else
    a fresh local cluster with as many CPUs as replicas.
    """
    os.environ.update(_TRAIN_SETTINGS | os.environ)
    _connect(replicas)
    try:
        with console() as terminal:
            DistoptTrainer(
                _run_script,
                train_loop_config={"script": script, "console": terminal},
                scaling_config=ScalingConfig(num_workers=replicas),
                run_config=RunConfig(failure_config=FailureConfig(max_failures=max_restarts)),
            ).fit()
    except WorkerGroupError as failure:
        replica, text = cause_of(failure)
        return status_of(failure), f"Replica {replica} failed:\n{text.strip()}"
    except (KeyboardInterrupt, SystemExit):  # the latter is Ray Train's answer to a Ctrl-C
        return 128 + signal.SIGINT, "distopt run: stopped by SIGINT"
    finally:
        ray.shutdown()
    return 0, ""


def _connect(replicas: int) -> None:
    common: dict[str, Any] = {"log_to_driver": False, "runtime_env": {"env_vars": given()}, "logging_level": "warning"}
    address = address_in_use()
    _check_answers(address)
    if address in (None, "local"):
        check_cores(replicas)
    try:
        ray.init(num_cpus=replicas, include_dashboard=False, **common)
    except ValueError:  # there is a cluster, which has the CPUs that it has
        ray.init(**common)


def _check_answers(address: str | None) -> None:
    """Raise if no cluster answers at this address, because Ray would try for minutes."""
    host, _, port = (address or "").rpartition(":")
    if not host or not port.isdigit() or "/" in host:
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), _ANSWER_SECONDS).close()
    except OSError as error:
        source = "RAY_ADDRESS" if os.environ.get("RAY_ADDRESS") else "what the last 'ray start' on this machine noted"
        raise DistoptError(
            f"no Ray cluster answers at {address} ({error}), which is {source}: start it (ray start --head), or forget "
            "it (ray stop; unset RAY_ADDRESS), and distopt run starts one of its own"
        ) from None


def _run_script(config: dict[str, Any]) -> None:
    """Run the script as ``python script arguments`` would, in this worker."""
    script, terminal = config["script"], config["console"]
    with printing_to(terminal, f"[{replica_index()}] ".encode() if script.has_prefix else b""):
        attempt = ray.get(terminal.attempt.remote(replica_index()))
        _change_directory(script.directory)
        sys.path.insert(0, "")
        if script.faults and not attempt:
            inject(*script.faults)
        program.execute(script.command)


def _change_directory(directory: str) -> None:
    try:
        os.chdir(directory)
    except OSError as error:
        raise DistoptError(
            f"replica {get_context().get_world_rank()} can't enter {directory} on this node ({error}): put the script "
            "on a file system that all nodes share, or send it along: ray job submit --working-dir . -- distopt run ..."
        ) from error
