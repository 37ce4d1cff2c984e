"""Restores one checkpoint, on all replicas together: everything is checked before anything is set."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from distopt.checkpoint.agreement import do_together
from distopt.checkpoint.own_state import OWN_VARIABLES, Own
from distopt.checkpoint.reader import Found, differences, load, open_checkpoint, owner_of, refuse, targets_of
from distopt.checkpoint.state import CheckpointEntry, Live, differences_of, find, kind_of, make_slots
from distopt.distribute.agreement.communicator import Communicator
from distopt.errors import CheckpointError
from distopt.optimizers.common.access import engine_of
from distopt.optimizers.common.base import BaseOptimizer
from distopt.variables.variable import Variable


@dataclass(frozen=True)
class Run:
    """The run that is saved and restored.

    Args:
        optimizer: the optimizer, or None.
        variables: the variables that were given.
        own: what each replica keeps for itself.
    """

    optimizer: BaseOptimizer | None
    variables: Sequence[Variable]
    own: Own

    def takes_weights_alone(self, found: Found) -> bool:
        """Return whether an optimizer has saved, and there is none here."""
        return self.optimizer is None and "iterations" in found.manifest.variables


class Restored(NamedTuple):
    """The result of restoring a step: the fault of its files, or None; and whether the run goes on from there."""

    trouble: str | None
    goes_on: bool


def restore_step(run: Run, communicator: Communicator, directory: Path, step: int) -> Restored:
    """Restore a step. If its files are damaged, change nothing and say what is wrong with them.

    Raises:
        CheckpointError: the checkpoint does not fit this run. Nothing was set, unless a file has become shorter since
            it was checked: then the optimizer is damaged.
    """
    found: Found
    owner: int
    targets: dict[str, CheckpointEntry]

    def check() -> None:
        nonlocal found, owner, targets
        found = open_checkpoint(directory, step)
        owner = _owner(run, found, communicator)
        targets = _targets(run, found, owner)

    trouble = do_together(communicator, check)
    if trouble is not None:
        return Restored(trouble, goes_on=False)
    left = _restore_own(run, communicator, found, owner)
    trouble = do_together(communicator, lambda: load(found, targets))
    if trouble is not None:
        error = CheckpointError(f"{directory}, step {step}: {trouble}")
        if run.optimizer is not None:
            engine_of(run.optimizer).training.note_damage(error)
        raise error
    if run.optimizer is not None:
        engine_of(run.optimizer).training.note_restored()  # nothing is left of what a step had broken
    goes_on = not run.takes_weights_alone(found)
    if communicator.index == 0 and goes_on:
        _warn(run, found, left)
    return Restored(None, goes_on)


def _owner(run: Run, found: Found, communicator: Communicator) -> int:
    kinds = run.own.kinds
    if found.has_own_variables and not run.takes_weights_alone(found):
        kinds.append(OWN_VARIABLES)
    return owner_of(found.manifest, communicator.size, communicator.index, kinds)


def _targets(run: Run, found: Found, owner: int) -> dict[str, CheckpointEntry]:
    """Return this run's variables by their names in the files, with the slots that the optimizer had when it saved."""
    optimizer, manifest = run.optimizer, found.manifest
    targets = targets_of(find(optimizer, run.variables), owner)
    lines = differences(targets, manifest, owner)
    if run.takes_weights_alone(found):
        refuse([line for line in lines if not line.endswith("only in the checkpoint")], manifest)
        return targets
    stored, here = manifest.optimizer, kind_of(optimizer)
    classes = stored and here and (stored.classes, here.classes)
    if classes and classes[0] != classes[1]:
        before, now = (" of ".join(each) for each in classes)
        refuse([f"the optimizer: {before} in the checkpoint, {now} here", *lines], manifest)
    if optimizer is None or any(line.startswith("variables/") for line in lines):
        refuse(lines, manifest)
        return targets
    targets = targets_of(_with_slots(run, found), owner)
    refuse(differences(targets, manifest, owner), manifest)
    return targets


def _with_slots(run: Run, found: Found) -> Live:
    known = {f"variables/{v.name}": v for v in run.variables}
    trained = found.manifest.trained
    if run.optimizer is not None and trained and all(key in known for key in trained):
        make_slots(run.optimizer, [known[key] for key in trained], has_own_variables=found.has_own_variables)
    return find(run.optimizer, run.variables)


def _restore_own(run: Run, communicator: Communicator, found: Found, owner: int) -> list[str]:
    """Set what replicas keep for themselves, on all of them or on none."""
    left: list[str] = []
    before: dict[str, object] = {}
    do_together(communicator, lambda: before.update(run.own.state()))
    try:
        do_together(communicator, lambda: left.extend(run.own.restore_own(found.manifest.replicas[owner])))
    except CheckpointError:
        run.own.put_back(before)
        raise
    return left


def _warn(run: Run, found: Found, left: Sequence[str]) -> None:
    """Warn of what the checkpoint holds and nobody asked for, and of an optimizer with another configuration."""
    if left:
        warnings.warn(f"restored without {' and '.join(left)}, which the checkpoint holds", stacklevel=5)
    stored, here = found.manifest.optimizer, kind_of(run.optimizer)
    other = differences_of(stored, here) if stored and here else []
    if other:
        warnings.warn(f"restored into an optimizer of another configuration: {'; '.join(other)}", stacklevel=5)
