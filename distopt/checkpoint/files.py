"""Files of a checkpoint: safetensors, written and hashed in one pass and synced to the disk, checked when read.

The format is written here and not by the ``safetensors`` library: the state is in one buffer, in the order of the file,
and is hashed as it is written. The library checks the headers of files that are read.
"""

from __future__ import annotations

import json
import os
import stat
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import xxhash
from safetensors import SafetensorError, safe_open

from distopt.arrays import Array, to_dtype
from distopt.checkpoint.pieces import Piece

DTYPES = {
    "bool": "BOOL", "uint8": "U8", "int8": "I8", "uint16": "U16", "int16": "I16", "uint32": "U32", "int32": "I32",
    "uint64": "U64", "int64": "I64", "float16": "F16", "bfloat16": "BF16", "float32": "F32", "float64": "F64",
}  # fmt: skip
"""The dtypes that a checkpoint holds, and their names in safetensors."""

_CHUNK = 1 << 22
_LENGTH = struct.Struct("<Q")


class BadFileError(Exception):
    """A file of a checkpoint that is not what was written."""


@dataclass(frozen=True)
class Stored:
    """A piece in a file: its first byte there, and its dtype."""

    piece: Piece
    dtype: str
    offset: int

    @property
    def nbytes(self) -> int:
        """Return the size of the piece in bytes."""
        return (self.piece.end - self.piece.begin) * to_dtype(self.dtype).itemsize


def checksum(data: bytes) -> str:
    """Return the checksum of bytes: XXH3, 64 bits, as 16 hexadecimal digits."""
    return xxhash.xxh3_64_hexdigest(data)


def write_tensors(path: Path, pieces: Sequence[tuple[Piece, str]], buffer: Array) -> tuple[int, str]:
    """Write a safetensors file and sync it.

    Args:
        path: the new file.
        pieces: each with its dtype, in the order in which they lie in the buffer, without gaps.
        buffer: uint8 array; not changed.

    Returns:
        Size and checksum of the file.
    """
    header, end = {}, 0
    for piece, dtype in pieces:
        begin, end = end, end + Stored(piece, dtype, 0).nbytes
        header[piece.name] = {
            "dtype": DTYPES[dtype], "shape": [piece.end - piece.begin], "data_offsets": [begin, end]
        }  # fmt: skip
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    digest = xxhash.xxh3_64()
    with path.open("xb") as file:
        for chunk in (_LENGTH.pack(len(text)) + text, *_chunks(buffer)):
            digest.update(chunk)
            file.write(chunk)
        file.flush()
        os.fsync(file.fileno())
        return file.tell(), digest.hexdigest()


def _chunks(buffer: Array) -> Iterator[bytes]:
    data = buffer.data
    return (data[begin : begin + _CHUNK] for begin in range(0, len(data), _CHUNK))  # type: ignore[misc]


def write_text(path: Path, text: str) -> None:
    """Write a small file, as a whole or not at all, and sync it."""
    aside = path.with_name(f"{path.name}.new")
    with aside.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    aside.rename(path)


def sync_directory(path: Path) -> None:
    """Sync the names in a directory to the disk."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def check_file(path: Path, size: int, expected: str) -> None:
    """Check that a file is a plain one and has this size and checksum.

    Raises:
        BadFileError: the file is something else, or has another size or checksum.
    """
    status = path.lstat()
    if not stat.S_ISREG(status.st_mode):
        raise BadFileError(f"{path.name} is no plain file")
    if status.st_size != size:
        raise BadFileError(f"{path.name} has {status.st_size} bytes instead of {size}")
    digest, chunk = xxhash.xxh3_64(), bytearray(_CHUNK)
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(chunk):
            digest.update(memoryview(chunk)[:count])
    if digest.hexdigest() != expected:
        raise BadFileError(f"{path.name} has the checksum {digest.hexdigest()} instead of {expected}")


def read_small(path: Path, limit: int = 1 << 28) -> bytes:
    """Return the bytes of a plain file that must not be large.

    Raises:
        BadFileError: the file is not a plain one, or too large.
    """
    status = path.lstat()
    if not stat.S_ISREG(status.st_mode) or status.st_size > limit:
        raise BadFileError(f"{path.name} is no plain file of less than {limit} bytes")
    return path.read_bytes()


def locate(path: Path, pieces: Sequence[tuple[Piece, str]]) -> list[Stored]:
    """Return where the pieces lie in a safetensors file, which must hold these and no others.

    Raises:
        BadFileError: the file holds something else, or is no safetensors file.
    """
    try:
        with safe_open(path, framework="numpy"):  # checks that the header fits the file
            pass
        with path.open("rb") as file:
            (length,) = _LENGTH.unpack(file.read(_LENGTH.size))
            header = json.loads(file.read(length))
    except (SafetensorError, ValueError, RecursionError) as error:
        raise BadFileError(f"{path.name} is no safetensors file: {error}") from None
    header.pop("__metadata__", None)
    expected = {p.name: {"dtype": DTYPES[dtype], "shape": [p.end - p.begin]} for p, dtype in pieces}
    if {name: {"dtype": e["dtype"], "shape": e["shape"]} for name, e in header.items()} != expected:
        raise BadFileError(f"{path.name} holds other pieces than the manifest says")
    first = _LENGTH.size + length
    return [Stored(p, dtype, first + int(header[p.name]["data_offsets"][0])) for p, dtype in pieces]


def read_into(path: Path, stored: Sequence[tuple[Stored, Array]]) -> None:
    """Read pieces into memory of their sizes.

    Args:
        path: the file.
        stored: where each piece lies, and a uint8 array for it; overwritten.

    Raises:
        BadFileError: the file has become shorter since it was checked.
    """
    with path.open("rb", buffering=0) as file:
        for source, target in stored:
            file.seek(source.offset)
            view = target.data
            while view and (count := file.readinto(view)):
                view = view[count:]
            if view:
                raise BadFileError(f"{path.name} has become shorter while it was read")
