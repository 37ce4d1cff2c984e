"""Reads a checkpoint; all files are checked before a variable is changed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from distopt.checkpoint import directory as names
from distopt.checkpoint.files import BadFileError, Stored, check_file, locate, read_into
from distopt.checkpoint.manifest import Described, Manifest, read_manifest
from distopt.checkpoint.state import CheckpointEntry, Live, own_key
from distopt.distribute.node.node import Node
from distopt.engine.sweep.shared_mode import SharedByNode
from distopt.errors import CheckpointError


@dataclass(frozen=True)
class Found:
    """A checkpoint whose files have been checked."""

    directory: Path
    manifest: Manifest
    stored: Sequence[Sequence[Stored]]
    """The pieces of each file, with their positions in it."""

    @property
    def has_own_variables(self) -> bool:
        """Return whether replicas had variables of their own."""
        return any(key.startswith(own_key("", 0)) for key in self.manifest.variables)


def open_checkpoint(directory: Path, step: int) -> Found:
    """Read the manifest and check every file.

    Raises:
        BadFileError: a file is damaged or missing.
        CheckpointError: a later version of distopt has written the checkpoint.
    """
    path = names.complete(directory, step)
    try:
        manifest = read_manifest(path, step)
        for part in manifest.parts:
            check_file(path / part.name, part.size, part.checksum)
        dtypes = {key: described.dtype for key, described in manifest.variables.items()}
        stored = [locate(path / part.name, [(p, dtypes[p.key]) for p in part.pieces]) for part in manifest.parts]
    except OSError as error:
        raise BadFileError(f"{error.strerror or error}: {Path(error.filename or path).name}") from None
    return Found(path, manifest, stored)


def owner_of(manifest: Manifest, replicas: int, index: int, parts: Iterable[str]) -> int:
    """Return the index of the saved replica whose own state this replica takes: the same index, where there is one.

    With another number of replicas than before, every replica takes the state of replica 0, if all had the same.

    Args:
        manifest: the manifest of the checkpoint.
        replicas: the number of replicas now.
        index: this replica's index.
        parts: the names of the states that will be taken.

    Raises:
        CheckpointError: there are more or fewer replicas now, and the saved ones had different states.
    """
    if len(manifest.replicas) == replicas:
        return index
    for part in parts:
        if any(own.get(part) != manifest.replicas[0].get(part) for own in manifest.replicas):
            raise CheckpointError(
                f"step {manifest.step} was saved by {len(manifest.replicas)} replicas, each with {part} of its own, "
                f"and there are {replicas} now: go on with {len(manifest.replicas)}"
                + (", or leave random= out and seed anew" if part == "random" else "")
            )
    return 0


def targets_of(live: Live, owner: int) -> dict[str, CheckpointEntry]:
    """Return the variable of this run for each name in the files."""
    return {**live.common, **{own_key(key, owner): entry for key, entry in live.own.items()}}


def differences(targets: Mapping[str, CheckpointEntry], manifest: Manifest, owner: int) -> list[str]:
    """Return a line for each variable that is missing on either side, or differs in shape or dtype."""
    others = {own_key("", r) for r in range(len(manifest.replicas)) if r != owner}
    stored = {k: v for k, v in manifest.variables.items() if f"{k.split('/', 1)[0]}/" not in others}
    here = {key: entry.described for key, entry in targets.items()}
    lines = [f"{key}: only in the checkpoint" for key in stored if key not in here]
    lines += [f"{key}: not in the checkpoint" for key in here if key not in stored]
    lines += [
        f"{key}: {_text(stored[key])} in the checkpoint, {_text(here[key])} here"
        for key in here
        if key in stored and stored[key] != here[key]
    ]
    return lines


def refuse(lines: Sequence[str], manifest: Manifest) -> None:
    """Raise an error that lists the differences, if there are any.

    Raises:
        CheckpointError: there are.
    """
    if lines:
        shown = "".join(f"\n  {line}" for line in lines[:20]) + ("\n  ..." if len(lines) > 20 else "")
        raise CheckpointError(
            f"the checkpoint of step {manifest.step} holds other variables than this run:{shown}\nVariables are found "
            "by their names: make them as in the run that saved it, with the same optimizer, and pass those of a model "
            "whose optimizer has made no step as variables=[...]. Checkpointer(directory, variables=[...]) without an "
            "optimizer restores the weights alone"
        )


def load(found: Found, targets: Mapping[str, CheckpointEntry]) -> None:
    """Overwrite the variables; where replicas of a node share memory, each replica reads a part for all of them.

    Raises:
        BadFileError: a file has become shorter since it was checked.
    """
    for part, stored in zip(found.manifest.parts, found.stored, strict=True):
        wanted = [
            (each, targets[each.piece.key].bytes[each.piece.begin : each.piece.end].reshape(-1))
            for k, each in enumerate(stored)
            if each.piece.key in targets and _reads(_node(targets[each.piece.key]), k)
        ]
        read_into(found.directory / part.name, wanted)
    for entry in targets.values():
        entry.variable.storage.note_write()
        entry.variable.storage.may_differ = False


def _node(entry: CheckpointEntry) -> Node | None:
    shared_by = None if entry.buffer is None else entry.buffer.shared_by
    return shared_by.node if isinstance(shared_by, SharedByNode) else None


def _reads(node: Node | None, number: int) -> bool:
    """Return whether this replica, of those on its node, reads the piece of this number."""
    return node is None or number % len(node.members) == node.index_on_node


def _text(described: Described) -> str:
    return f"{described.dtype}{list(described.shape)}"
