"""Saves the state of a run, all replicas together, and restores it."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from distopt.arguments import as_int
from distopt.checkpoint import directory as names
from distopt.checkpoint.agreement import do_together, tell
from distopt.checkpoint.own_state import OWN_VARIABLES, Resumable, own_state, restore_own
from distopt.checkpoint.preemption import Preemption
from distopt.checkpoint.random_state import checked_generators
from distopt.checkpoint.reader import Found, load, open_checkpoint, owner_of, targets_of
from distopt.checkpoint.snapshot import Snapshot, raise_difference, sample_of
from distopt.checkpoint.state import CheckpointEntry, Live, find, make_slots
from distopt.checkpoint.writer import Whole, Write, Writer
from distopt.distribute.agreement.communicator import Communicator
from distopt.distribute.agreement.header import Call, agree, telling_the_others
from distopt.distribute.strategy import get_strategy
from distopt.errors import CheckpointError, InvalidArgumentError
from distopt.memory.digests import digest
from distopt.optimizers.common.access import counter_of, engine_of, family_of
from distopt.optimizers.common.base import BaseOptimizer
from distopt.process.moments import Moment
from distopt.process.observers import observe
from distopt.process.replica import current_replica
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

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        optimizer: BaseOptimizer | None = None,
        variables: Sequence[Variable] | None = None,
        data: Resumable | None = None,
        random: Sequence[Any] = (),
        keep: int = 3,
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
        self._optimizer, self._variables, self._data = optimizer, list(variables or []), data
        self._random, self._keep = checked_generators(random), _count("keep", keep)
        self._writer, self._preemption = Writer(), Preemption()
        self._snapshot = Snapshot()
        self._calls = 0
        self._begun: int | None = None
        self._goes_on = False

    def save(self) -> None:
        """Save the state: copy it, and let a thread write the copy. Collective.

        A checkpoint that is still being written is waited for first; if writing failed, there is a warning.

        Raises:
            CollectiveMismatchError: not all replicas save (on every one of them).
            CheckpointError: the replicas' states differ, or the directory holds the checkpoints of another run.
        """
        self._calls += self._optimizer is None
        self._save()

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
                print(
                    f"saved step {self._step} in {self.directory}; stopping on request ({why}). Run the same command "
                    "again to go on",
                    flush=True,
                )
            raise SystemExit(0)

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

    def restore(self) -> int | None:
        """Restore the newest undamaged checkpoint, on all replicas the same one. Collective.

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
        agree(communicator, Call("Checkpointer.restore", lambda: {"directory": str(self.directory)}))
        steps: list[int] = tell(communicator, saved_steps)[0]
        self._goes_on = True
        bad: list[str] = []
        for step in reversed(steps):
            trouble = self._restore(communicator, step)
            if trouble is None:
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
        if kind is None:
            self.wait()
        else:
            self._writer.give_up()

    @property
    def _step(self) -> int:
        return self._calls if self._optimizer is None else int(counter_of(self._optimizer))

    # Saving

    def _save(self) -> None:
        observe(Moment.CHECKPOINT, self._step)
        communicator = get_strategy().ready()
        replicas, index = communicator.size, communicator.index
        with telling_the_others(communicator):
            failure = self._writer.join()
            if self._optimizer is not None:
                family_of(self._optimizer).refuse_if_unusable(current_replica())
            live, step, saved_steps = find(self._optimizer, self._variables), self._step, names.steps_in(self.directory)
            if index == 0:
                self._refuse_another_run(step, saved_steps)
            own = own_state(live, self._data, self._random)
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
        self._begun, self._goes_on = step, True
        mine = [(piece, entry.variable.dtype.name) for piece, entry in pieces]
        token, buffer = rows[0][2], self._snapshot.buffer
        whole = Whole(self.directory, step, token, replicas, described, live.trained, self._keep)
        self._writer.begin(Write(whole, index, mine, buffer, own))
        if text is not None and index == 0:
            warnings.warn(text, stacklevel=3)

    def _refuse_another_run(self, step: int, saved_steps: Sequence[int]) -> None:
        if not self._goes_on and saved_steps and saved_steps[-1] > step:
            raise CheckpointError(
                f"{self.directory} holds a checkpoint of step {saved_steps[-1]}, and this run saves step {step} "
                "without having restored it: call restore() before the first step, or take another directory"
            )

    def _failure(self, rows: Sequence[Sequence[Any]]) -> str | None:
        """Say why the last checkpoint could not be written, from the reports of all replicas; None if it was."""
        texts = list(dict.fromkeys(row[0] for row in rows if row[0]))
        if not texts:
            return None
        last = rows[0][1]
        good = f"the last good one is that of step {last[0]}" if last else "there is none before it"
        return f"the checkpoint of step {self._begun} could not be written in {self.directory}: {texts[-1]}; {good}"

    # Restoring

    def _restore(self, communicator: Communicator, step: int) -> str | None:
        """Restore a step. If its files are damaged, change nothing and return what is wrong with them."""
        found: Found
        owner: int
        targets: dict[str, CheckpointEntry]

        def check() -> None:
            nonlocal found, owner, targets
            found = open_checkpoint(self.directory, step)
            parts = {"data": self._data, "random": self._random, OWN_VARIABLES: found.has_own_variables}
            owner = owner_of(found.manifest, communicator.size, communicator.index, [p for p, v in parts.items() if v])
            targets = targets_of(self._prepared(found), found.manifest, owner)

        trouble = do_together(communicator, check)
        if trouble is not None:
            return trouble
        left: list[str] = []
        do_together(
            communicator, lambda: left.extend(restore_own(found.manifest.replicas[owner], self._data, self._random))
        )
        trouble = do_together(communicator, lambda: load(found, targets))
        if trouble is not None:
            error = CheckpointError(f"{self.directory}, step {step}: {trouble}")
            if self._optimizer is not None:
                engine_of(self._optimizer).training.note_damage(error)
            raise error
        if self._optimizer is not None:
            engine_of(self._optimizer).training.note_restored()  # nothing is left of what a step had broken
        self._calls = step
        if left and communicator.index == 0:
            warnings.warn(f"restored without {' and '.join(left)}, which the checkpoint holds", stacklevel=3)
        return None

    def _prepared(self, found: Found) -> Live:
        """Return this run's variables, after making the slots that the optimizer had when the step was saved."""
        optimizer, manifest = self._optimizer, found.manifest
        if optimizer is not None:
            known = {f"variables/{v.name}": v for v in self._variables}
            if manifest.trained and all(key in known for key in manifest.trained):
                trained = [known[key] for key in manifest.trained]
                make_slots(optimizer, trained, has_own_variables=found.has_own_variables)
        return find(optimizer, self._variables)


def _count(argument: str, value: Any) -> int:
    number = as_int(value)
    if number is None or number < 1:
        raise InvalidArgumentError(f"Checkpointer: {argument} = {value!r}: expected an int, 1 or more")
    return number
