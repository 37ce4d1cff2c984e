"""This process as one of several replicas, which run the same tests."""

import functools

import distopt
from distopt.testing import MPIReplicas, ProcessReplicas


@functools.cache
def process_replicas(transport, nodes=()):
    """The processes of an MPI job or of a Ray group, on the nodes where they are or on others that they pretend."""
    if transport == "mpi":
        return MPIReplicas(nodes)
    communicator = distopt.get_strategy().communicator.clone()
    if nodes:
        communicator.nodes = nodes
    return ProcessReplicas(communicator, communicator.clone())


def transport_of(config):
    """What joins the processes that run these tests; None where there is but one."""
    if config.getoption("--on-ray"):
        return "ray"
    return "mpi" if config.getoption("--only-mpi") or config.getoption("--with-mpi") else None
