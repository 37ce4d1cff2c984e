"""The manifest lists what a checkpoint holds, and in which file. Nothing in a manifest is used before it is checked."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import msgspec

from distopt.checkpoint.files import DTYPES, BadFileError, checksum, read_small, write_text
from distopt.checkpoint.pieces import LIMIT, Count, Piece, check_cover
from distopt.errors import CheckpointError

NAME = "manifest.json"
FORMAT: Final = 1


class Described(msgspec.Struct, frozen=True):
    """The shape and dtype of a variable."""

    shape: tuple[Count, ...]
    dtype: str

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES or math.prod(self.shape) > LIMIT:
            raise ValueError(f"a variable of shape {self.shape} and dtype {self.dtype!r}")


class Kind(msgspec.Struct, frozen=True):
    """The optimizer that has saved: its class and those of the optimizers inside it, and its configuration."""

    classes: list[str]
    configuration: dict[str, Any]


class FilePart(msgspec.Struct, frozen=True):
    """One file: its size, its checksum, and the pieces in it."""

    name: Annotated[str, msgspec.Meta(pattern=r"\Apart-[0-9]{5,9}\.safetensors\Z")]
    size: Count
    checksum: Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{16}\Z")] = msgspec.field(name="xxh3_64")
    pieces: list[Piece]


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """The list of what a checkpoint holds.

    Args:
        step: number of steps done.
        variables: by key.
        trained: the keys of the variables that the optimizer updates, in its order.
        optimizer: which optimizer that is; None without one, or in checkpoints of earlier versions.
        parts: one file per replica.
        replicas: what each replica keeps for itself, as JSON: data, random state, digests of its own variables.

    Raises:
        ValueError: the files do not hold every element once.
    """

    format: Literal[1] = FORMAT
    step: Count
    variables: dict[str, Described]
    trained: list[str]
    optimizer: Kind | None = None
    parts: list[FilePart] = msgspec.field(name="files")
    replicas: list[dict[str, Any]]

    def __post_init__(self) -> None:
        if len({part.name for part in self.parts}) < len(self.parts) or len(self.parts) != len(self.replicas):
            raise ValueError(f"{len(self.parts)} files of {len(self.replicas)} replicas")
        sizes = {key: math.prod(described.shape) for key, described in self.variables.items()}
        check_cover(sizes, (piece for part in self.parts for piece in part.pieces))

    def write(self, directory: Path) -> None:
        """Write the manifest, with its own checksum."""
        content = msgspec.to_builtins(self)
        envelope = {"xxh3_64": checksum(_canonical(content)), "manifest": content}
        write_text(directory / NAME, json.dumps(envelope, indent=1))


class _Envelope(msgspec.Struct):
    """The file: a manifest that is not checked yet, and its checksum."""

    xxh3_64: str
    manifest: dict[str, Any]


def read_manifest(directory: Path, step: int | None) -> Manifest:
    """Read and check the manifest of a step, or of any step where ``step`` is None.

    Raises:
        BadFileError: the manifest is damaged, or contradicts itself.
        CheckpointError: a later version of distopt has written the manifest.
    """
    data = read_small(directory / NAME)
    try:
        # Python's reader: the whole numbers of random states have more than 64 bits.
        envelope = msgspec.convert(json.loads(data), _Envelope)
        if envelope.xxh3_64 != checksum(_canonical(envelope.manifest)):
            raise BadFileError(f"{NAME} does not have its own checksum")
        format_ = envelope.manifest.get("format")
        if isinstance(format_, int) and format_ > FORMAT:
            raise CheckpointError(
                f"{directory} is of format {format_}, and this distopt reads {FORMAT}: restore with the distopt that "
                "wrote it, or a later one"
            )
        manifest = msgspec.convert(envelope.manifest, Manifest)
    except (msgspec.ValidationError, ValueError, RecursionError) as error:
        raise BadFileError(f"{NAME} is damaged: {type(error).__name__}: {error}") from None
    if step is not None and manifest.step != step:
        raise BadFileError(f"{NAME} is that of step {manifest.step}")
    return manifest


def _canonical(content: Any) -> bytes:
    return json.dumps(content, sort_keys=True, separators=(",", ":")).encode()
