"""The same tests over one process, threads and MPI; under mpirun the first failure ends the job."""

import functools
import importlib
import os
import shutil
import sys
import tempfile
import time
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, settings

pytest.register_assert_rewrite("distopt.testing")

from processes_as_replicas import process_replicas, transport_of  # noqa: E402 (the rewriting must be known before)

import distopt  # noqa: E402
from distopt.process.launcher import launched  # noqa: E402
from distopt.testing import LocalReplica, SimulatedReplicas, ThreadReplicas  # noqa: E402

# All replicas must draw the same examples, and no clock may decide how many.
settings.register_profile("replicas", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("replicas")

WAYS = {"local": LocalReplica} | {
    f"threads-{count}": functools.partial(SimulatedReplicas, count) for count in (2, 3, 5, 8)
}
SLOW_WAYS = ["threads-2", "threads-3", "threads-8"]
"""Left to ``make test-slow``: what other counts rarely miss."""

SIMULATED_PLACEMENTS = [(0, 0, 1, 1), (0, 1, 0, 1), (0, 0, 0, 1, 1), (0, 1, 1, 1, 1), (0, 0, 0, 1, 1, 1)]
MPI_PLACEMENTS = [(0, 1), (0, 1, 1), (0, 1, 0), (0, 0, 1, 1), (0, 1, 0, 1)]
"""The node of each replica: nodes that are subtrees of the summation, and nodes that are none."""


def pytest_addoption(parser):
    parser.addoption("--over", metavar="MODULE:FUNCTION", help="run the parallel tests over a transport of your own")
    parser.addoption("--on-ray", action="store_true", help="run the parallel tests as a replica of this Ray process")


@pytest.hookimpl(trylast=True)
def pytest_configure(config):
    if config.getoption("--over"):  # one without ``node_barrier`` says so
        config.addinivalue_line("filterwarnings", "ignore:the replicas of a node can't share memory")
    if config.getoption("--on-ray") or launched() is not None:
        # At its end pytest takes old directories away, and fails where another process does so too.
        os.environ["PYTEST_DEBUG_TEMPROOT"] = _directory(config)
    elif "PYTEST_XDIST_WORKER" in os.environ:
        # Open MPI's launcher, when it ends, takes the directory away in which another one begins.
        os.environ["TMPDIR"] = tempfile.tempdir = _directory(config)
    if config.getoption("--on-ray"):
        config.pluginmanager.register(OneReplicaOfMany(distopt.replica_index(), lambda: os._exit(1)))
    if transport_of(config) == "mpi" and launched() is not None:
        config.pluginmanager.register(OneReplicaOfMany(launched().rank, _abort))
        if launched().rank:
            reporter = config.pluginmanager.unregister(name="terminalreporter")
            # What is left of it serves pytest-timeout, which writes the stacks of all threads there.
            config.pluginmanager.register(SimpleNamespace(_tw=reporter._tw), "terminalreporter")


def _directory(config):
    path = tempfile.mkdtemp(prefix="distopt-")
    config.add_cleanup(functools.partial(shutil.rmtree, path, ignore_errors=True))
    return path


def pytest_generate_tests(metafunc):
    """``replicas`` runs a function as one or more replicas, ``several`` as two or more, ``placed`` on several nodes."""
    if "placed" in metafunc.fixturenames:
        _parametrize_placed(metafunc)
    own = getattr(metafunc.module, "OWN_FIXTURES", set())
    for fixture in {"replicas", "several"} & set(metafunc.fixturenames) - own:
        ways = [
            pytest.param(way, marks=[pytest.mark.slow] if way in SLOW_WAYS else [])
            for way in WAYS
            if fixture == "replicas" or way != "local"
        ]
        if (transport := transport_of(metafunc.config)) == "mpi":
            ways = [pytest.param("mpi", marks=pytest.mark.mpi(min_size=1 if fixture == "replicas" else 2))]
        elif transport == "ray":
            ways = ["ray"]
        if over := metafunc.config.getoption("--over"):
            ways = [over]
        metafunc.parametrize(fixture, ways, indirect=True, scope="session")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config, items):
    """In a Ray process only what replicas do together is tested; with ``--only-mpi`` pytest-mpi sees to that."""
    if config.getoption("--on-ray") or config.getoption("--over"):
        items[:] = [item for item in items if {"replicas", "several", "placed", "few"} & set(item.fixturenames)]


def _parametrize_placed(metafunc):
    transport = transport_of(metafunc.config)
    ways = [] if metafunc.config.getoption("--over") else SIMULATED_PLACEMENTS
    if transport is not None:
        count = distopt.num_replicas() if transport == "ray" else launched().size if launched() else 1
        marks = [pytest.mark.mpi] if transport == "mpi" else []
        ways = [pytest.param(nodes, marks=marks) for nodes in MPI_PLACEMENTS if len(nodes) == count]
    metafunc.parametrize("placed", ways, indirect=True, scope="session", ids=lambda nodes: "-".join(map(str, nodes)))


@pytest.fixture(scope="session")
def replicas(request):
    if request.param in WAYS:
        return WAYS[request.param]()
    if ":" in request.param:
        module, _, function = request.param.partition(":")
        return ThreadReplicas(getattr(importlib.import_module(module), function))
    return process_replicas(request.param)


several = replicas


@pytest.fixture(scope="session")
def placed(request):
    transport = transport_of(request.config)
    if transport is None:
        return SimulatedReplicas(len(request.param), request.param)
    return process_replicas(transport, request.param)


class OneReplicaOfMany:
    """One replica reports for all; the first failure of any ends the job, for the others wait for it."""

    def __init__(self, rank, abort):
        self.rank, self.abort = rank, abort

    def pytest_runtest_logreport(self, report):
        if report.failed:
            self._end_job(f"{report.nodeid} ({report.when})", report)

    def pytest_collectreport(self, report):
        if report.failed:
            self._end_job(f"collection of {report.nodeid}", report)

    def _end_job(self, what, report):
        if self.rank:
            time.sleep(1)  # where all fail alike, replica 0 is the one that says so
        sys.stderr.write(f"\nreplica {self.rank}: {what} failed\n{report.longreprtext}\n")
        sys.stderr.flush()
        self.abort()


def _abort():
    from mpi4py import MPI

    MPI.COMM_WORLD.Abort(1)
