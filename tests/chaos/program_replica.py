"""One replica of a random program, with distopt."""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np
from chaos import programs as p
from chaos.programs import DTYPES, RATES, SHAPES, Program

import distopt
from distopt import Strategy, Variable
from distopt.data import batches, join
from distopt.distribute.agreement.checks import Checks
from distopt.optimizers import SGD, Adam

OPTIMIZERS = {"SGD": SGD, "momentum": lambda rate: SGD(rate, momentum=0.5), "Adam": Adam}


class UserError(Exception):
    """What a program raises."""


class World:
    """One replica of a running program: its variables, its optimizers, and what came of its calls."""

    def __init__(self, program: Program, replica: int) -> None:
        self.variables = [
            Variable(p.initial_value(program, entry, replica), name=f"v{entry}") for entry in range(len(SHAPES))
        ]
        self.optimizers = [OPTIMIZERS[name](RATES[0]) for name in program.optimizers]
        self.replica = replica
        self.log: list[tuple[str, Any]] = []


def run_replica(program: Program, worlds: dict[int, World]) -> None:
    """Run one replica's script; what came of each call goes into its log."""
    communicator = distopt.get_strategy().communicator
    checks = Checks(state_every=program.state_every)
    with Strategy(communicator, update=program.update, checks=checks).scope():
        world = worlds[communicator.index] = World(program, communicator.index)
        for op in program.scripts[world.replica]:
            if isinstance(op, p.Return):
                return
            try:
                value = _do(op, world)
            except Exception as error:
                world.log.append(("error", type(error).__name__))
                if not program.catches[world.replica]:
                    raise
            else:
                world.log.append(("value", value))


def _do(op: p.Op, world: World) -> Any:
    optimizer = world.optimizers[op.optimizer] if hasattr(op, "optimizer") else None
    chosen = [world.variables[entry] for entry in op.entries] if hasattr(op, "entries") else []
    match op:
        case p.AllReduce():
            return distopt.all_reduce(p.contribution(op.shape, op.dtype, world.replica), op.op)
        case p.AllGather():
            return distopt.all_gather(p.contribution(op.shape, op.dtype, world.replica))
        case p.Broadcast(source, ()):
            return distopt.broadcast(p.contribution((6,), "int64", world.replica), source)
        case p.Broadcast(source, entries):
            distopt.broadcast([world.variables[entry] for entry in entries], source)
        case p.Barrier():
            distopt.barrier()
        case p.Place():
            place = distopt.get_strategy().location
            return place.index_on_node, place.replicas_on_node
        case p.Build():
            optimizer.build(world.variables)
        case p.Step():
            return _step(op, optimizer, chosen, world.replica)
        case p.LocalStep():
            pairs = zip(p.gradients_of(op, world.replica), chosen, strict=True)
            return int(optimizer.apply_gradients(pairs, experimental_aggregate_gradients=False))
        case p.Assign(entry, number):
            world.variables[entry].assign(np.full(SHAPES[entry], number, DTYPES[entry]))
        case p.SetRate():
            optimizer.learning_rate = op.rate
        case p.GetWeights():
            return optimizer.get_weights()
        case p.Batches():
            return _loop_over_batches(op, optimizer, chosen)
        case p.Join():
            return _loop_over_items(op, optimizer, chosen, world.replica)
        case p.Mistake():
            _make_mistake(op, optimizer, chosen)
        case p.Raise():
            raise UserError("as the program wants it")
    return None


def _step(op: p.Step, optimizer: Any, chosen: list[Variable], replica: int) -> int | None:
    gradients, items = p.gradients_of(op, replica), p.items_of(op, replica)
    if op.how == "buffers":
        optimizer.cancel_step()  # or sums of a step that was begun may lie in them
        for k, buffer in enumerate(optimizer.gradient_buffers(chosen)):
            if isinstance(gradients[k], np.ndarray):
                buffer[...] = gradients[k]
                gradients[k] = buffer
    if op.how in ("apply", "buffers"):
        return int(optimizer.apply_gradients(zip(gradients, chosen, strict=True), items=items))
    optimizer.begin_step(chosen)
    for k in reversed(range(len(chosen))):
        if op.how == "stream" or k:
            optimizer.push(chosen[k], gradients[k])
    return int(optimizer.end_step(items)) if op.how == "stream" else None


def _loop_over_batches(op: p.Batches, optimizer: Any, chosen: list[Variable]) -> list[tuple[int, int]]:
    seen = []
    data = batches(np.arange(1.0, op.examples + 1), global_batch_size=op.size, shuffle=False)
    with contextlib.closing(iter(data)) as loop:
        for batch in loop:
            gradients = p.full(op.entries, batch.arrays.sum())
            optimizer.apply_gradients(zip(gradients, chosen, strict=True), items=batch.items)
            seen.append((batch.items, batch.global_size))
            if len(seen) == op.leave_after:
                break
    return seen


def _loop_over_items(op: p.Join, optimizer: Any, chosen: list[Variable], replica: int) -> list[int]:
    seen = []
    with contextlib.closing(join(np.full(replica + 1, k + 1.0) for k in range(op.lengths[replica]))) as loop:
        for item in loop:
            gradients = p.full(op.entries, item.sum())
            optimizer.apply_gradients(zip(gradients, chosen, strict=True), items=len(item))
            seen.append(len(item))
            if len(seen) == op.leave_after:
                break
    return seen


def _make_mistake(op: p.Mistake, optimizer: Any, chosen: list[Variable]) -> None:
    good = list(zip(p.full(op.entries, 1), chosen, strict=True))
    bad = np.ones((2, 2, 2))
    match op.what:
        case "op":
            distopt.all_reduce(1.0, "mean")
        case "text":
            distopt.all_gather("text")
        case "source":
            distopt.broadcast(1.0, source=99)
        case "shape":
            optimizer.apply_gradients([(bad, chosen[0]), *good[1:]])
        case "items":
            optimizer.apply_gradients(good, items=-1)
        case "push":
            optimizer.begin_step(chosen)
            optimizer.push(chosen[0], bad)
