"""What happens around a simulation: threads of its replicas, Ctrl-C in its caller, ``sys.exit`` in a replica."""

import contextvars
import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import distopt
from distopt import simulate
from distopt.errors import DeadCommunicatorError, InvalidArgumentError, ReplicaError


def in_a_thread(fn):
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(fn).result()


def test_a_thread_of_a_replica_must_be_told_for_which():
    def look():
        with pytest.raises(ReplicaError, match="copy_context"):
            in_a_thread(distopt.replica_index)
        context = contextvars.copy_context()
        return in_a_thread(lambda: context.run(distopt.replica_index))

    assert simulate(3, look) == [0, 1, 2]
    assert in_a_thread(distopt.replica_index) == 0


def test_a_thread_from_before_a_simulation_remains_the_process():
    with ThreadPoolExecutor(1) as pool:
        pool.submit(int).result()
        assert simulate(2, lambda: pool.submit(distopt.num_replicas).result()) == [1, 1]


def test_a_simulation_of_another_thread_leaves_the_main_thread_alone():
    entered, leave = threading.Event(), threading.Event()

    def wait():
        entered.set()
        return leave.wait()

    thread = threading.Thread(target=simulate, args=(2, wait))
    thread.start()
    entered.wait()
    try:
        assert distopt.num_replicas() == 1
    finally:
        leave.set()
        thread.join()


@pytest.mark.parametrize("status", [0, 3, None, "text"])
def test_an_exit_in_a_replica_does_not_end_the_program(status):
    def leave():
        if distopt.replica_index() == 1:
            sys.exit(status)
        distopt.barrier()

    with pytest.raises(ReplicaError, match=f"^replica 1 called sys.exit.{status!r}.") as raised:
        simulate(3, leave)
    assert isinstance(raised.value.__cause__, SystemExit)


@pytest.mark.parametrize("count", [0, True, 2.0, "2", None])
def test_a_number_of_replicas_that_is_none(count):
    with pytest.raises(InvalidArgumentError, match=rf"num_replicas={count!r}\): expected an int, 1 or more"):
        simulate(count, distopt.replica_index)
    assert simulate(np.int64(2), distopt.replica_index) == [0, 1]


def test_an_interruption_of_the_caller_stops_the_replicas():
    ended, failures = threading.Semaphore(0), []

    def train():
        try:
            while True:
                distopt.barrier()
                if distopt.replica_index() == 0 and not interrupted.is_set():
                    interrupted.set()
                    signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        except ReplicaError as failure:
            failures.append(failure)
            raise
        finally:
            ended.release()

    interrupted = threading.Event()
    with pytest.raises(KeyboardInterrupt):
        simulate(3, train)
    assert all(ended.acquire(timeout=10) for _ in range(3))
    assert {type(failure) for failure in failures} == {DeadCommunicatorError}
    assert "KeyboardInterrupt" in str(failures[0])
