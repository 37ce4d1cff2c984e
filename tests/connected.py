"""Replicas over the connections of Ray's transport, as threads of one process: without a Ray cluster."""

import multiprocessing
import os
import secrets
import threading

import numpy as np

from distopt.distribute.strategy import Strategy
from distopt.distribute.transports.connections.peers import Member, Peers, listen
from distopt.distribute.transports.sockets import RayCommunicator
from distopt.process.replica import Replica, enter_replica
from distopt.testing import Replicas


def make_peers(nodes):
    """One end for each of so many replicas on these nodes."""
    members = [Member(f"node {node}", "127.0.0.1", os.getpid()) for node in nodes]
    listeners = [listen(member, nodes) for member in members]
    members = [
        Member(m.node, m.address, m.pid, each.getsockname()[1]) for m, each in zip(members, listeners, strict=True)
    ]
    secret = secrets.token_bytes(32)
    return [Peers(index, members, secret, each) for index, each in enumerate(listeners)]


def together(functions):
    """Call each function in a thread of its own; return their results, or raise the first failure."""
    outcomes = [None] * len(functions)

    def run(index):
        try:
            outcomes[index] = functions[index](), None
        except BaseException as error:
            outcomes[index] = None, error

    threads = [threading.Thread(target=run, args=(r,), daemon=True) for r in range(len(functions))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    failures = [outcome[1] for outcome in outcomes if outcome and outcome[1]]
    if failures:
        raise failures[0]
    assert all(outcomes), "a replica hangs"
    return [result for result, _ in outcomes]


def as_replica(peers, fn, args):
    """Call a function as the replica at one end."""
    communicator = RayCommunicator(peers)
    enter_replica(Replica(name=f"connected replica {peers.index}", default_strategy=Strategy(communicator)))
    return fn(*args)


class ConnectedReplicas(Replicas):
    """Every call makes a group of its own."""

    transport = "ray"

    def __init__(self, nodes):
        self.nodes, self.count = nodes, len(nodes)

    def __call__(self, fn, *args):
        ends = make_peers(self.nodes)

        try:
            return together([lambda peers=peers: as_replica(peers, fn, args) for peers in ends])
        finally:
            for peers in ends:
                peers.close()


class ForkedReplicas(Replicas):
    """A group of its own for every call, in which each replica is a process."""

    transport = "ray"

    def __init__(self, nodes):
        self.nodes, self.count = nodes, len(nodes)

    def __call__(self, fn, *args):
        ends, fork = make_peers(self.nodes), multiprocessing.get_context("fork")
        results = [fork.Pipe(duplex=False) for _ in ends]

        def replica(index):
            for other in ends[:index] + ends[index + 1 :]:
                other.forget()
            results[index][1].send(as_replica(ends[index], fn, args))

        processes = [fork.Process(target=replica, args=[index], daemon=True) for index in range(self.count)]
        for process in processes:
            process.start()
        for end, (_, writer) in zip(ends, results, strict=True):
            end.forget()
            writer.close()
        outcomes = [reader.recv() if reader.poll(60) else "it hangs" for reader, _ in results]
        for process in processes:
            process.join(1)
            process.kill()
        return outcomes


def connected(ends):
    return together([lambda each=each: RayCommunicator(each) for each in ends])


def record(number):
    return np.full(8, number, np.uint8)
