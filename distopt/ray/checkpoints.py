"""A ``Checkpointer``'s checkpoint as one of Ray Train's, and back."""

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

    Ray Train copies it to its storage, keeps as many as ``CheckpointConfig`` says, and hands the newest to
    ``restore`` when it starts the workers again. Its ``report`` waits up to two seconds: call it once an epoch.

    Args:
        metrics: those of replica 0 count.
        checkpointer: its directory is one that all nodes share.

    Raises:
        CheckpointError: it could not be written.
    """
    checkpointer.save()
    checkpointer.wait()
    newest = names.complete(checkpointer.directory, names.steps_in(checkpointer.directory)[-1])
    mine = ray.train.Checkpoint.from_directory(newest) if replica_index() == 0 else None
    ray.train.report(dict(metrics), checkpoint=mine)


def restore(checkpointer: Checkpointer) -> int | None:
    """Bring back the newest checkpoint: that of Ray Train, or a later one in the directory. Collective.

    Returns:
        How many steps were done when it was saved; None where there is none.

    Raises:
        CheckpointError: there are checkpoints, and none is good; or it does not fit this run's variables.
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
