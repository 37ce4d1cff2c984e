"""Saves the state of a run, all replicas together, and restores it."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from distopt.arguments import as_int
from distopt.checkpoint import directory as names
from distopt.checkpoint.agreement import tell
from distopt.checkpoint.best import checked_best
from distopt.checkpoint.extra import checked_extra
from distopt.checkpoint.own_state import OWN_VARIABLES, Own, Resumable, own_variables
from distopt.checkpoint.preemption import Preemption
from distopt.checkpoint.random_state import checked_generators
from distopt.checkpoint.restoring import Run, restore_step
from distopt.checkpoint.snapshot import Snapshot, raise_difference, sample_of
from distopt.checkpoint.state import find, kind_of
from distopt.checkpoint.writer import Whole, Write, Writer
from distopt.distribute.agreement.header import Call, agree, telling_the_others
from distopt.distribute.belonging import in_own_scope
from distopt.distribute.strategy import get_strategy
from distopt.errors import CheckpointError, InvalidArgumentError
from distopt.memory.digests import digest
from distopt.optimizers.common.access import belonging_of, counter_of, family_of
from distopt.optimizers.common.base import BaseOptimizer
from distopt.process.moments import Moment
from distopt.process.observers import observe
from distopt.process.replica import current_replica
from distopt.speaking import write
from distopt.variables.variable import Variable


class Checkpointer:
    """Saves the state of a run, all replicas together, and restores it: a run that stops and resumes has the same bits.

    A checkpoint holds parameters, slots, ``iterations``, hyperparameters that are variables, the state of schedule and
    aggregator (where they have ``variables``), the position in the data and random states. It depends neither on the
    number of replicas nor on the mode. On disk it is the directory ``step-00000120`` with one safetensors file per
    replica and ``manifest.json`` with their checksums. A thread writes the directory while the training goes on, and
    renames it when it is complete.

    Variables are found by their names: give them names, or make them in the same order in every run.

    The state of each single replica (random states, aggregator variables, the position in data of your own) goes back
    to the replica of the same index. With another number of replicas it can be restored only if it was the same on all.

    Args:
        directory: where checkpoints are; the same on all nodes.
        optimizer: of either family.
        variables: the parameters, if ``restore`` comes before the first step (only then does an optimizer know them),
            and further variables to save. Without an optimizer a step is a call of ``save`` or ``save_every``.
        data: ``distopt.data.batches(...)``, or anything with ``resume(state)`` and ``state()``, which returns JSON.
        random: random generators: NumPy's ``Generator`` and ``RandomState``, ``random.Random``.
        keep: number of checkpoints to keep; older ones are removed when a new one is complete.
        extra: a dict of values of your own by name: numbers, strings, arrays, lists and dicts of them. Each replica
            saves those that are in its dict at that time, and ``restore`` puts them into it.
        keep_best: keep the best checkpoint too: the name of a number in ``extra``, and ``"min"`` or ``"max"``, as in
            ``("loss", "min")``.

    Raises:
        InvalidArgumentError: an argument that can't be right.

    Example:
        >>> import tempfile, distopt
        >>> def run(steps):
        ...     w = distopt.Variable([0.0], name="w")
        ...     optimizer = distopt.optimizers.SGD(1.0, momentum=0.5)
        ...     with Checkpointer(directory, optimizer=optimizer, variables=[w]) as checkpointer:
        ...         print("begins after step", checkpointer.restore())
        ...         for _ in range(steps):
        ...             optimizer.apply_gradients([([-1.0], w)])
        ...             checkpointer.save_every(2)
        ...     return w.numpy()
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     print(run(2), run(1))
        begins after step None
        begins after step 2
        [2.5] [4.25]
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     run(3)
        begins after step None
        array([4.25], dtype=float32)
    """

    def __init__(  # noqa: PLR0913 (a run has many parts, each given by its name)
        self,
        directory: str | os.PathLike[str],
        *,
        optimizer: BaseOptimizer | None = None,
        variables: Sequence[Variable] | None = None,
        data: Resumable | None = None,
        random: Sequence[Any] = (),
        keep: int = 3,
        extra: dict[str, Any] | None = None,
        keep_best: tuple[str, str] | None = None,
    ) -> None:
        self.directory = Path(directory).absolute()
        if optimizer is not None and not isinstance(optimizer, BaseOptimizer):
            raise InvalidArgumentError(f"Checkpointer(optimizer={optimizer!r}): expected an optimizer of distopt")
        if optimizer is None and not variables:
            raise InvalidArgumentError("Checkpointer without optimizer and variables: there is nothing to save")
        if data is not None and not (hasattr(data, "state") and hasattr(data, "resume")):
            raise InvalidArgumentError(
                f"Checkpointer(data={data!r}): expected distopt.data.batches(...), or an object with state() and resume"
            )
        self._distopt_belonging = belonging_of(optimizer)
        self._optimizer, self._keep = optimizer, _count("keep", keep)
        own = Own(data, checked_generators(random), {} if extra is None else checked_extra(extra))
        self._run, self._best = Run(optimizer, list(variables or []), own), checked_best(keep_best)
        self._writer, self._preemption = Writer(), Preemption()
        self._snapshot = Snapshot()
        self._calls = 0
        self._begun: int | None = None
        self._known_steps: set[int] = set()
        """Those that this run has restored or saved; others in the directory are another run's."""
        self._holds_lock = False

    @in_own_scope
    def save(self) -> None:
        """Save the state: copy it, and let a thread write the copy. Collective.

        A checkpoint that is still being written is waited for first; if writing failed, there is a warning.

        Raises:
            CollectiveMismatchError: not all replicas save (on every one of them).
            CheckpointError: the replicas' states differ, or the directory holds the checkpoints of another run, or
                another job writes there.
        """
        self._calls += self._optimizer is None
        self._save()

    @in_own_scope
    def save_every(self, steps: int) -> None:
        """Save when the number of steps done is a multiple of ``steps``. Call this method once after every step.

        When a replica has received SIGUSR1 or SIGTERM, all replicas save after the same step and end (status 0).

        Args:
            steps: 1 or more.

        Raises:
            SystemExit: a signal asked to stop, and the state has been saved.
        """
        steps = _count("steps", steps)
        self._preemption.install()
        self._calls += self._optimizer is None
        stops = self._preemption.is_agreed
        if stops or self._step % steps == 0:
            self._save()
        if stops:
            self.wait()
            if get_strategy().replica_index == 0:
                why = self._preemption.received or "another replica was asked to"
                write(
                    sys.stdout,
                    f"saved step {self._step} in {self.directory}; stopping on request ({why}). Run the same command "
                    "again to go on\n",
                )
            raise SystemExit(0)

    @in_own_scope
    def wait(self) -> None:
        """Wait until the last checkpoint is on the disk. Collective.

        Raises:
            CheckpointError: the checkpoint could not be written (on every replica).
        """
        communicator = get_strategy().ready()
        with telling_the_others(communicator):
            failure = self._writer.join()
        agree(communicator, Call("Checkpointer.wait"))
        text = self._failure(tell(communicator, [failure, names.steps_in(self.directory)[-1:]]))
        if text is not None:
            raise CheckpointError(text)

    @in_own_scope
    def restore(self, *, best: bool = False) -> int | None:
        """Restore the newest undamaged checkpoint, on all replicas the same one. Collective.

        Without an optimizer, a checkpoint that an optimizer has saved gives the values of ``variables=`` alone, for
        inference or for training in another directory. What else it holds is left there.

        Args:
            best: take the best checkpoint, by ``keep_best=``, instead of the newest.

        Returns:
            The number of steps done when it was saved; None where the directory holds no checkpoint.

        Raises:
            CheckpointError: all checkpoints are damaged, or the checkpoint does not fit this run's variables.
        """
        communicator = get_strategy().ready()
        with telling_the_others(communicator):
            self._writer.join()
            if self._optimizer is not None:
                self._optimizer.cancel_step()
            if communicator.index == 0:
                names.put_back(self.directory)
            saved_steps = names.steps_in(self.directory)
            order = self._ranked(saved_steps) if best else saved_steps
        call = {"directory": str(self.directory), "best": str(best)}
        agree(communicator, Call("Checkpointer.restore", lambda: call))
        steps: list[int] = tell(communicator, order)[0]
        bad: list[str] = []
        for step in reversed(steps):
            trouble, goes_on = restore_step(self._run, communicator, self.directory, step)
            if trouble is None:
                self._calls = step
                if goes_on:
                    self._known_steps.update(saved_steps)
                if bad and communicator.index == 0:
                    warnings.warn(f"went back to step {step}, for {'; '.join(bad)}", stacklevel=2)
                return step
            bad.append(f"the checkpoint of step {step} is damaged: {trouble}")
        if bad:
            raise CheckpointError(f"no checkpoint in {self.directory} can be read: {'; '.join(bad)}")
        return None

    def __enter__(self) -> Self:
        """Return this object; at the end of the block everything is on the disk."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Wait for the last checkpoint; after an exception only for this replica's part of it."""
        self._preemption.uninstall()
        try:
            if kind is None:
                self.wait()
            else:
                self._writer.give_up()
        finally:
            if self._holds_lock:
                names.unlock(self.directory)

    @property
    def _step(self) -> int:
        return self._calls if self._optimizer is None else int(counter_of(self._optimizer))

    def _ranked(self, steps: Sequence[int]) -> list[int]:
        if self._best is None:
            raise InvalidArgumentError(
                "restore(best=True): which is best? Give Checkpointer(keep_best=('loss', 'min'))"
            )
        return self._best.ranked(self.directory, steps)

    # Saving

    def _save(self) -> None:
        observe(Moment.CHECKPOINT, self._step)
        communicator = get_strategy().ready()
        replicas, index = communicator.size, communicator.index
        with telling_the_others(communicator):
            failure = self._writer.join()
            if self._optimizer is not None:
                family_of(self._optimizer).refuse_if_unusable(current_replica())
            live, step = find(self._optimizer, self._run.variables), self._step
            if index == 0:
                names.lock(self.directory)
                self._holds_lock = True
            saved_steps = names.steps_in(self.directory)
            if index == 0:
                self._refuse_another_run(step, saved_steps)
            if self._best is not None:
                self._best.check(self._run.own.extra)
            own = self._run.own.state() | {OWN_VARIABLES: own_variables(live)}
            described, pieces = live.described(replicas), live.pieces(replicas, index)
            self._snapshot.make_room(pieces)
        call = {"directory": str(self.directory), "keep": str(self._keep), "variables": str(described)}
        agree(communicator, Call("Checkpointer.save", lambda: call, step))
        sample = sample_of(live)
        rows = tell(communicator, [failure, saved_steps[-1:], os.urandom(8).hex(), digest(sample.values())])
        text = self._failure(rows)
        if len({row[3] for row in rows}) > 1:
            raise_difference(communicator, sample)
        self._snapshot.copy_from(pieces)
        self._begun = step
        self._known_steps.add(step)
        mine = [(piece, entry.variable.dtype.name) for piece, entry in pieces]
        token, buffer = rows[0][2], self._snapshot.buffer
        contents = described, live.trained, kind_of(self._optimizer)
        whole = Whole(self.directory, step, token, replicas, *contents, self._keep, self._best)
        self._writer.begin(Write(whole, index, mine, buffer, own))
        if text is not None and index == 0:
            warnings.warn(text, stacklevel=3)

    def _refuse_another_run(self, step: int, saved_steps: Sequence[int]) -> None:
        others = [each for each in saved_steps if each not in self._known_steps]
        if others:
            raise CheckpointError(
                f"{self.directory} holds a checkpoint of step {others[-1]}, and this run saves step {step} without "
                "having restored it: call restore() before the first step, or take another directory. If the "
                "checkpoint is newer than this run, another job writes there"
            )

    def _failure(self, rows: Sequence[Sequence[Any]]) -> str | None:
        """Say why the last checkpoint could not be written, from the reports of all replicas; None if it was."""
        texts = list(dict.fromkeys(row[0] for row in rows if row[0]))
        if not texts:
            return None
        last = rows[0][1]
        good = f"the last good one is that of step {last[0]}" if last else "there is none before it"
        return f"the checkpoint of step {self._begun} could not be written in {self.directory}: {texts[-1]}; {good}"


def _count(argument: str, value: Any) -> int:
    number = as_int(value)
    if number is None or number < 1:
        raise InvalidArgumentError(f"Checkpointer: {argument} = {value!r}: expected an int, 1 or more")
    return number
