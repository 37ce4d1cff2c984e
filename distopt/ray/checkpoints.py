"""Hands a ``Checkpointer``'s checkpoints to Ray Train, and restores them from there."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ray.train

from distopt.checkpoint import Checkpointer
from distopt.checkpoint import directory as names
from distopt.checkpoint.manifest import read_manifest
from distopt.distribute.collectives import barrier, replica_index


def report(metrics: Mapping[str, Any], checkpointer: Checkpointer) -> None:
    """Save, and report the checkpoint with metrics to Ray Train. Collective.

    Ray Train copies the checkpoint to its storage, keeps as many as ``CheckpointConfig`` says, and hands the newest to
    ``restore`` when it starts the workers again. Ray Train may wait up to two seconds for each report: call this
    function once an epoch.

    Args:
        metrics: numbers by name; Ray Train takes those of replica 0.
        checkpointer: a checkpointer whose directory all nodes share.

    Raises:
        CheckpointError: the checkpoint could not be written.
    """
    checkpointer.save()
    checkpointer.wait()
    newest = names.complete(checkpointer.directory, names.steps_in(checkpointer.directory)[-1])
    mine = ray.train.Checkpoint.from_directory(newest) if replica_index() == 0 else None
    ray.train.report(dict(metrics), checkpoint=mine)


def restore(checkpointer: Checkpointer) -> int | None:
    """Restore the newest checkpoint: that of Ray Train, or a later one in the directory. Collective.

    Returns:
        The number of steps done when it was saved; None where there is no checkpoint.

    Raises:
        CheckpointError: all checkpoints are damaged, or the checkpoint does not fit this run's variables.
    """
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is not None and replica_index() == 0:
        with checkpoint.as_directory() as path:
            _put_into(checkpointer.directory, Path(path))
    barrier()
    return checkpointer.restore()


def _put_into(directory: Path, checkpoint: Path) -> None:
    step = read_manifest(checkpoint, None).step
    if not names.complete(directory, step).exists():
        token = os.urandom(8).hex()
        shutil.copytree(checkpoint, names.aside(directory, step, token))
        names.publish(directory, step, token)
