"""Small programs whose digests ``digests.py`` compares, and the replicas that run them.

Usage: ``python tests/digest_programs.py COUNT...`` on replicas of this process, on every transport that it can have;
``mpirun -n 4 python tests/digest_programs.py`` on those of MPI. Prints one JSON object a line, with the keys of
``Outcome``. Names that distopt keeps for itself are not used: this file looks at other checkouts too.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

import distopt
from distopt import IndexedSlices, Variable, optimizers
from distopt.errors import InvalidArgumentError
from distopt.optimizers import legacy
from distopt.testing import LocalReplica, MPIReplicas, Replicas, SimulatedReplicas

REPOSITORY = Path(distopt.__file__).parents[1]
SHAPES = {"table": (9, 3), "matrix": (70, 61), "vector": (5,), "scalar": ()}
STEPS = 4
REFUSED = "refused"
"""Stands for the digest where distopt says that it does not do this in this mode."""

Pairs = list[tuple[Any, Variable]]


@dataclass(frozen=True)
class Outcome:
    """What a program ended with.

    Args:
        program: its name.
        count: how many replicas there were.
        way: what joined them.
        digest: of parameters and the optimizer's state; of each replica, if they differ.
    """

    program: str
    count: int
    way: str
    digest: str


@dataclass(frozen=True)
class Program:
    """A short training.

    Args:
        make_optimizer: makes its optimizer.
        dtype: of its variables.
        sparse: whether one gradient has rows only, and one is absent on some replicas.
        streamed: whether gradients are pushed one by one.
        items: whether each replica says how many items it had.
    """

    make_optimizer: Callable[[], Any]
    dtype: Any = np.float32
    sparse: bool = False
    streamed: bool = False
    items: bool = False

    def __call__(self) -> str:
        """Train, and return the digest."""
        variables = [Variable(np.full(shape, 0.5), name=name, dtype=self.dtype) for name, shape in SHAPES.items()]
        optimizer = self.make_optimizer()
        for number in range(STEPS):
            items = 1 + (distopt.replica_index() + number) % 3 if self.items else None
            self._step(optimizer, self._pairs(variables, number), items)
        return distopt.digest([*variables, *optimizer.get_weights()])

    def _step(self, optimizer: Any, pairs: Pairs, items: int | None) -> None:
        if not self.streamed:
            optimizer.apply_gradients(pairs, items=items)
            return
        optimizer.begin_step([variable for _, variable in pairs])
        for gradient, variable in reversed(pairs):
            optimizer.push(variable, gradient)
        optimizer.end_step(items=items)

    def _pairs(self, variables: Sequence[Variable], number: int) -> Pairs:
        """Return gradients of very different sizes, whose sum shows the order of summation in its last bits."""
        rng = np.random.default_rng([number, distopt.replica_index()])
        gradients: list[Any] = [
            (rng.normal(size=v.shape) * 2.0 ** rng.integers(-6, 3, v.shape)).astype(self.dtype) for v in variables
        ]
        if self.sparse:
            rows = rng.integers(0, 9, 4)
            gradients[0] = IndexedSlices(gradients[0][rows], rows, (9, 3))
            if distopt.replica_index() % 2:
                gradients[2] = None
        return list(zip(gradients, variables, strict=True))


def example() -> str:
    """Train as examples/train.py does, for one epoch."""
    module = importlib.import_module("train")
    config = module.read_config(REPOSITORY / "configs" / "digits.toml")
    config["data"]["epochs"] = 1
    return str(module.train(config)["digest"])


def programs_of_both(family: Any) -> Mapping[str, Program]:
    """Return the programs that both families know."""
    adam = partial(family.Adam, 0.05)
    momentum = partial(family.SGD, 0.1, momentum=0.9)
    return {
        "Adam": Program(adam),
        "Adam, global_clipnorm": Program(partial(adam, global_clipnorm=1.0), items=True),
        "Adam, amsgrad, clipvalue": Program(partial(adam, amsgrad=True, clipvalue=0.5)),
        "Adam, sparse": Program(adam, sparse=True),
        "Adam, sparse, clipnorm": Program(partial(adam, clipnorm=1.0), sparse=True),
        "Adam, streamed": Program(adam, streamed=True, items=True),
        "Adam, streamed, clipped": Program(partial(adam, global_clipnorm=1.0), streamed=True, sparse=True),
        "Adam, float64": Program(adam, np.float64),
        "Adam, bfloat16": Program(adam, ml_dtypes.bfloat16),
        "SGD, momentum": Program(momentum),
        "SGD, nesterov, clipnorm": Program(partial(momentum, nesterov=True, clipnorm=1.0)),
        "SGD, momentum, sparse": Program(momentum, sparse=True, items=True),
        "SGD, streamed, clipnorm": Program(partial(momentum, clipnorm=1.0), streamed=True),
        "SGD, float16": Program(momentum, np.float16),
        "own aggregator": Program(partial(adam, gradient_aggregator=distopt.aggregators.Sum())),
    }


def programs_of_keras3() -> Mapping[str, Program]:
    """Return the programs that the Keras 3 family alone knows."""
    adam = partial(optimizers.Adam, 0.05)
    accumulating = partial(adam, gradient_accumulation_steps=2)
    decaying = partial(adam, weight_decay=0.01, use_ema=True, ema_overwrite_frequency=2)
    exact = partial(adam, master_weights=True)
    return {
        "accumulation": Program(accumulating, items=True),
        "accumulation, sparse": Program(accumulating, sparse=True),
        "accumulation, streamed": Program(accumulating, streamed=True, items=True),
        "decay and average": Program(decaying),
        "master weights, float16": Program(partial(exact, clipnorm=1.0), np.float16),
        "master weights, bfloat16": Program(exact, ml_dtypes.bfloat16, sparse=True),
        "master weights, streamed": Program(exact, ml_dtypes.bfloat16, streamed=True),
        "master weights, accumulated": Program(partial(accumulating, master_weights=True), np.float16),
        "loss scale": Program(lambda: optimizers.LossScaleOptimizer(adam(), initial_scale=4.0)),
        "Lamb": Program(partial(optimizers.Lamb, 0.05)),
    }


def programs() -> Mapping[str, Callable[[], str]]:
    """Return all programs by name."""
    both = {
        f"{name}: {what}": program
        for name, family in (("keras3", optimizers), ("legacy", legacy))
        for what, program in programs_of_both(family).items()
    }
    more = {f"keras3: {what}": program for what, program in programs_of_keras3().items()}
    return {"example": example, **both, **more}


def digest_or_refusal(program: Callable[[], str]) -> str:
    """Run a program to its end, or to a refusal."""
    try:
        return program()
    except InvalidArgumentError:
        return REFUSED


def ways_here(count: int) -> Iterator[tuple[str, Replicas]]:
    """Give the kinds of replicas that one process can have, with their names."""
    connected = importlib.import_module("connected").ConnectedReplicas
    yield "one process", LocalReplica() if count == 1 else SimulatedReplicas(count)
    yield "sockets", connected([0] * count)
    if count > 1:
        yield "one process, 2 nodes", SimulatedReplicas(count, nodes_of(count))
        yield "sockets, 2 nodes", connected(nodes_of(count))


def ways_of_mpi(count: int) -> Iterator[tuple[str, Replicas]]:
    """Give the replicas of this MPI job, on one node and as if on two."""
    yield "MPI", MPIReplicas()
    if count > 1:
        yield "MPI, 2 nodes", MPIReplicas(nodes_of(count))


def nodes_of(count: int) -> list[int]:
    """Return the node of each replica: two nodes that share no subtree of the summation."""
    return [replica % 2 for replica in range(count)]


def outcomes(count: int, ways: Iterator[tuple[str, Replicas]]) -> Iterator[Outcome]:
    """Run all programs in each of these ways."""
    for way, replicas in ways:
        for name, program in programs().items():
            digests = dict.fromkeys(replicas(digest_or_refusal, program))
            yield Outcome(name, count, way, " ".join(digests))


def main() -> None:
    """Run all programs, on replicas of this process or on those of MPI."""
    sys.path[:0] = [str(REPOSITORY / "tests"), str(REPOSITORY / "examples")]
    size = distopt.num_replicas()
    jobs = [(count, ways_here(count)) for count in map(int, sys.argv[1:])] or [(size, ways_of_mpi(size))]
    for count, ways in jobs:
        for outcome in outcomes(count, ways):
            distopt.print_once(json.dumps(asdict(outcome)), flush=True)


if __name__ == "__main__":
    main()
