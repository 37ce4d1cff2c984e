"""The manifest: what a checkpoint holds, and in which file. Nothing in it is believed before it was checked."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distopt.checkpoint.files import DTYPES, BadFileError, checksum, read_small, write_text
from distopt.checkpoint.pieces import Piece, check_cover
from distopt.errors import CheckpointError

NAME = "manifest.json"
FORMAT = 1
_PART = re.compile(r"part-[0-9]{5,9}\.safetensors")
_CHECKSUM = re.compile(r"[0-9a-f]{16}")
_LIMIT = 2**62


@dataclass(frozen=True)
class Part:
    """One file: its size, its checksum, and the pieces in it."""

    name: str
    size: int
    checksum: str
    pieces: Sequence[Piece]


@dataclass(frozen=True)
class Manifest:
    """What a checkpoint holds.

    Args:
        step: how many steps were done.
        variables: key -> (shape, dtype).
        trained: the keys of the variables that the optimizer updates, in its order.
        parts: one file per replica.
        replicas: what each replica keeps for itself, as JSON: data, random state, digests of its own variables.
    """

    step: int
    variables: Mapping[str, tuple[tuple[int, ...], str]]
    trained: Sequence[str]
    parts: Sequence[Part]
    replicas: Sequence[Mapping[str, Any]]

    def check(self) -> None:
        """Check that the files hold every element once.

        Raises:
            ValueError: they do not.
        """
        sizes = {key: math.prod(shape) for key, (shape, _) in self.variables.items()}
        check_cover(sizes, (piece for part in self.parts for piece in part.pieces))

    def write(self, directory: Path) -> None:
        """Write it, with its own checksum."""
        content = {
            "format": FORMAT,
            "step": self.step,
            "variables": {k: {"shape": list(shape), "dtype": dtype} for k, (shape, dtype) in self.variables.items()},
            "trained": list(self.trained),
            "files": [part_to_json(part) for part in self.parts],
            "replicas": list(self.replicas),
        }
        text = _canonical(content)
        envelope = {"xxh3_64": checksum(text.encode()), "manifest": content}
        write_text(directory / NAME, json.dumps(envelope, indent=1))


def read_manifest(directory: Path, step: int | None) -> Manifest:
    """Read and check the manifest of a step, or of whatever step it is.

    Raises:
        BadFileError: it is damaged, or says what can't be.
        CheckpointError: a later distopt has written it.
    """
    data = read_small(directory / NAME)
    try:
        envelope = json.loads(data)
        content = envelope["manifest"]
        if envelope["xxh3_64"] != checksum(_canonical(content).encode()):
            raise BadFileError(f"{NAME} does not have its own checksum")
        if isinstance(content["format"], int) and content["format"] > FORMAT:
            raise CheckpointError(
                f"{directory} is of format {content['format']}, and this distopt reads {FORMAT}: restore with the "
                "distopt that wrote it, or a later one"
            )
        manifest = _parse(content)
        manifest.check()
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise BadFileError(f"{NAME} is damaged: {type(error).__name__}: {error}") from None
    if step is not None and manifest.step != step:
        raise BadFileError(f"{NAME} is that of step {manifest.step}")
    return manifest


def part_to_json(part: Part) -> dict[str, Any]:
    """Return what ``part_from_json`` reads."""
    pieces = [[piece.key, piece.begin, piece.end] for piece in part.pieces]
    return {"name": part.name, "size": part.size, "xxh3_64": part.checksum, "pieces": pieces}


def part_from_json(entry: Any) -> Part:
    """Read what a manifest says of a file.

    Raises:
        ValueError: a name that leads elsewhere, a range that can't be; or another exception of a wrong type.
    """
    name, digest = entry["name"], entry["xxh3_64"]
    if not _PART.fullmatch(name):
        raise ValueError(f"{name!r} is no name of a file of a checkpoint")
    if not _CHECKSUM.fullmatch(digest):
        raise ValueError(f"{digest!r} is no checksum")
    pieces = [Piece(_text(key), _count(begin), _count(end)) for key, begin, end in entry["pieces"]]
    return Part(name, _count(entry["size"]), digest, pieces)


def _parse(content: Any) -> Manifest:
    if content["format"] != FORMAT:
        raise ValueError(f"format {content['format']!r}")
    variables = {}
    for key, entry in content["variables"].items():
        shape, dtype = tuple(_count(length) for length in entry["shape"]), entry["dtype"]
        if dtype not in DTYPES or math.prod(shape) >= _LIMIT:
            raise ValueError(f"{key!r} of shape {shape} and dtype {dtype!r}")
        variables[key] = shape, dtype
    parts = [part_from_json(entry) for entry in content["files"]]
    if len({part.name for part in parts}) < len(parts) or len(parts) != len(content["replicas"]):
        raise ValueError(f"{len(parts)} files of {len(content['replicas'])} replicas")
    replicas = [dict(entry) for entry in content["replicas"]]
    return Manifest(_count(content["step"]), variables, list(map(_text, content["trained"])), parts, replicas)


def _count(value: Any) -> int:
    if type(value) is not int or not 0 <= value < _LIMIT:
        raise ValueError(f"{value!r} is no count")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value


def _canonical(content: Any) -> str:
    return json.dumps(content, sort_keys=True, separators=(",", ":"))
