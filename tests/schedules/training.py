"""Runs a program: as several replicas, one of them late, and as the one replica that is right."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from schedules.gradients import gradients_of, join
from schedules.late import BETWEEN_CALLS, Lateness
from schedules.programs import Action, Program
from schedules.shelf import LEGACY, WITH_ACCUMULATION, make_optimizer

import distopt
from distopt import IndexedSlices, Strategy, Variable
from distopt.checkpoint import Checkpointer
from distopt.distribute.agreement.checks import Checks
from distopt.distribute.transports.local import LocalCommunicator

ALONE = -1
"""The index of the one replica that has the whole batch."""


class Training:
    """One replica's run of a program.

    Args:
        program: what to do.
        index: this replica, or ALONE.
        lateness: told of each action.
        folder: for checkpoints.
        communicator: of the replicas; None where there is one.
    """

    def __init__(self, program: Program, index: int, lateness: Lateness, folder: str, communicator: Any = None) -> None:
        self._program, self._index, self._lateness = program, index, lateness
        checks = Checks(on_nonfinite=program.on_nonfinite, state_every=program.state_every)
        update = "replicated" if communicator is None else program.update
        self._strategy = Strategy(communicator or LocalCommunicator(), update=update, checks=checks)
        self._folder = Path(folder)
        self._seen: list[tuple[str, Any]] = []

    def run(self) -> list[tuple[str, Any]]:
        """Return what was seen: labels and arrays."""
        program = self._program
        with self._strategy.scope():
            self._variables = [
                Variable(np.ones(shape), dtype=dtype, name=f"v{k}")
                for k, (shape, dtype) in enumerate(program.variables)
            ]
            self._optimizers = [
                make_optimizer(name, program.options if k == 0 else {}, program.hook, program.transformer)
                for k, name in enumerate(program.optimizers)
            ]
            for name, optimizer in zip(program.optimizers, self._optimizers, strict=True):
                if name not in LEGACY:
                    optimizer.build(self._variables)
            self._checkpointer = Checkpointer(self._folder, optimizer=self._optimizers[0], variables=self._variables)
            for number, action in enumerate(program.actions):
                self._lateness.begin(number)
                self._do(number, action)
            self._read("the end", state=True)
        return self._seen

    def _do(self, number: int, action: Action) -> None:
        self._lateness.pause(BETWEEN_CALLS)
        does: Callable[[int, Action], None] = getattr(self, "_" + action.what.replace(" ", "_"))
        does(number, action)
        self._read(f"after action {number} ({action.what})", state=action.reads)

    def _read(self, label: str, *, state: bool) -> None:
        self._seen += [(f"{label}, {variable.name}", variable.numpy()) for variable in self._variables]
        for k, optimizer in enumerate(self._optimizers if state else []):
            if self._program.optimizers[k] in WITH_ACCUMULATION and int(optimizer.variables[0]) % 2:
                continue  # every replica has accumulated for itself
            values = optimizer.get_weights()
            self._seen += [(f"{label}, state {i} of optimizer {k}", np.asarray(x)) for i, x in enumerate(values)]

    # Steps

    def _apply(self, number: int, action: Action) -> None:
        gradients, items = self._gradients(number, action)
        self._of(action).apply_gradients(zip(gradients, self._chosen(action), strict=True), items=items)

    def _buffers(self, number: int, action: Action) -> None:
        gradients, items = self._gradients(number, action)
        optimizer, chosen = self._of(action), self._chosen(action)
        optimizer.cancel_step()
        buffers = optimizer.gradient_buffers(chosen)
        optimizer.apply_gradients(zip(_laid_into(buffers, gradients), chosen, strict=True), items=items)
        for buffer in buffers:
            buffer[...] = np.nan  # they are the user's again

    def _stream(self, number: int, action: Action) -> None:
        gradients, items = self._gradients(number, action)
        self._of(action).begin_step(self._chosen(action))
        self._push(number, action, gradients)
        self._of(action).end_step(items=items)

    def _stream_of_buffers(self, number: int, action: Action) -> None:
        gradients, items = self._gradients(number, action)
        optimizer, chosen = self._of(action), self._chosen(action)
        buffers = optimizer.gradient_buffers(chosen)
        optimizer.begin_step(chosen)
        self._push(number, action, _laid_into(buffers, gradients))
        optimizer.end_step(items=items)
        for buffer in buffers:
            buffer[...] = np.nan

    def _give_up(self, number: int, action: Action) -> None:
        gradients, _ = self._gradients(number, action)
        self._of(action).begin_step(self._chosen(action))
        self._push(number, action, gradients, leaves_out=max(self._index, 0) % 2)

    def _alone(self, number: int, action: Action) -> None:
        gradients = self._gradients(number, action, joined=True)[0]
        pairs = zip(gradients, self._chosen(action), strict=True)
        self._of(action).apply_gradients(pairs, experimental_aggregate_gradients=False)

    def _push(self, number: int, action: Action, gradients: list[Any], leaves_out: int = 0) -> None:
        chosen = self._chosen(action)
        order = np.random.default_rng([self._program.seed, number, self._index + 1]).permutation(len(chosen))
        for k in order[leaves_out:]:
            self._lateness.pause(BETWEEN_CALLS)
            self._of(action).push(chosen[k], gradients[k])

    # Everything else

    def _assign(self, number: int, action: Action) -> None:
        variable = self._chosen(action)[0]
        variable.assign(variable.numpy() * np.asarray(0.5, variable.dtype))

    def _slot_assign(self, number: int, action: Action) -> None:
        slot = self._of(action).variables
        last = (slot() if callable(slot) else slot)[-1:]
        for variable in last:
            if variable.dtype.kind != "i":
                variable.assign(variable.numpy() * np.asarray(0.5, variable.dtype))

    def _weights(self, number: int, action: Action) -> None:
        values = self._of(action).get_weights()
        halves = [x if np.asarray(x).dtype.kind == "i" else x * np.asarray(0.5, np.asarray(x).dtype) for x in values]
        self._of(action).set_weights(halves)

    def _checkpoint(self, number: int, action: Action) -> None:
        self._checkpointer.save()

    def _restore(self, number: int, action: Action) -> None:
        self._checkpointer.wait()
        self._checkpointer.restore()

    def _collectives(self, number: int, action: Action) -> None:
        count = self._strategy.num_replicas_in_sync
        for _ in range(2):
            total = distopt.all_reduce(np.full(6000, self._strategy.replica_index + 1, "float32"))
            rows = distopt.all_gather(np.full(5, self._strategy.replica_index))
            given = distopt.broadcast(np.full(7000, self._strategy.replica_index + 3), source=count - 1)
            is_right = (total == count * (count + 1) / 2).all() and (given == count + 2).all()
            is_right = is_right and (rows == np.arange(count)[:, None]).all()
            self._seen.append((f"collectives in action {number}", np.asarray(is_right)))
            distopt.barrier()

    def _rate(self, number: int, action: Action) -> None:
        self._of(action).learning_rate = 0.25

    def _read_(self, number: int, action: Action) -> None:
        self._read(f"in action {number}", state=True)

    def _of(self, action: Action) -> Any:
        return self._optimizers[action.optimizer]

    def _chosen(self, action: Action) -> list[Variable]:
        return [self._variables[entry] for entry in action.entries]

    def _gradients(self, number: int, action: Action, *, joined: bool = False) -> tuple[list[Any], float | None]:
        """Return this replica's gradients and items; alone it has those of all, together."""
        everybodys = [gradients_of(self._program, number, r) for r in range(self._program.replicas)]
        items = [float(r % 3 + (r == 0)) for r in range(self._program.replicas)] if action.has_items else None
        if self._index == ALONE or joined:
            return [join(column) for column in zip(*everybodys, strict=True)], None if items is None else sum(items)
        return everybodys[self._index], None if items is None else items[self._index]


def _laid_into(buffers: list[Any], gradients: list[Any]) -> list[Any]:
    """Write dense gradients into their buffers; the others stay as they are."""
    laid = []
    for buffer, gradient in zip(buffers, gradients, strict=True):
        if gradient is None or isinstance(gradient, IndexedSlices):
            laid.append(gradient)
            continue
        buffer[...] = gradient
        laid.append(buffer)
    return laid
