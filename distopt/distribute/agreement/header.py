"""The step header: agreement in one small message, before any payload moves.

Every step and every public collective begins with one ``all_gather`` of fixed-size records. A record says what this
replica is about to do, as digests; when they agree (nearly always) that is all. When they do not, the replicas tell
each other the full descriptions and all raise the same error, with a table of who called what. A replica that has
failed or ended takes part as well and says so, which is why nobody waits for it.

What travels in the middle of a call (``exchange_bytes``) begins with a record as well, which says so: a replica that
has left the call and brings its next header is not taken for one that has not.

Record (little endian): kind, has-items, step, digest of the call, digest of the evaluated hyperparameters; what must
agree ends here; digest of which gradients exist, items, digest of the state, flags.
"""

from __future__ import annotations

import enum
import functools
import hashlib
import json
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from distopt.distribute.agreement.communicator import Array, Communicator, does_something_else
from distopt.errors import CollectiveMismatchError, ReplicaError, ReplicaFailedError, ReplicaLeftError
from distopt.process.replica import current_replica
from distopt.process.trouble import describe, forget_trouble
from distopt.process.whereabouts import user_line

_RECORD = struct.Struct("<BBxxxxxxqQQQdQB7x")
_MUST_AGREE = 32
_AT = "called at"

as_bytes: Callable[[str], bytes] = functools.partial(str.encode, errors="surrogatepass")
"""Returns a text as it travels. Never raises: names of files and errors may hold half characters (surrogates)."""


class Kind(enum.IntEnum):
    """The kinds of records that a replica brings to a header."""

    CALL = 1
    RAISED = 2
    CONSEQUENCE = 3
    GOODBYE = 4
    BYTES = 5
    """The length of what is exchanged in the middle of a call; in a header only if somebody has left that call."""


@dataclass(slots=True)
class Call:
    """A call that a replica is about to do.

    Args:
        name: the call as the user knows it, e.g. ``all_reduce(op='sum')``.
        describe: says what must agree, label -> text; called for the digest and when it does not agree.
        step: the step that the call belongs to, or -1.
    """

    name: str
    describe: Callable[[], Mapping[str, str]] = dict
    step: int = -1

    @property
    def digest(self) -> int:
        """64 bits of the name and what it says."""
        return digest(as_bytes(repr((self.name, sorted(self.describe().items())))))


class Flag(enum.IntFlag):
    """Notes that a replica gives to the others in passing."""

    STOP = 1
    """It was asked to stop."""
    CHANGED = 2
    """Memory that only distopt writes has changed since the last step."""
    EXITING = 4
    """It calls from an exit handler, where no threads start and those of distopt may have ended."""


@dataclass(slots=True)
class Brought:
    """The contribution of a replica to a header, beside its call.

    Args:
        call_digest: ``call.digest`` where the caller has it already (it costs more than the message).
        hyper_digest: digest of evaluated hyperparameters, which must agree.
        presence: digest of which gradients exist, which may differ.
        items: what the loss is averaged over on this replica, or None for "no items".
        state: digest of the state, or 0; may differ.
        flags: of ``Flag``.
    """

    call_digest: int | None = None
    hyper_digest: int = 0
    presence: int = 0
    items: float | None = None
    state: int = 0
    flags: int = 0


NOTHING = Brought()


@dataclass(slots=True)
class Agreement:
    """The agreement of the replicas; the rest is what each of them brought."""

    presence_differs: bool
    items: tuple[float, ...]
    states: tuple[int, ...]
    flags: tuple[int, ...]


@functools.lru_cache(maxsize=256)
def digest(data: bytes) -> int:
    """Return a 64-bit digest that is the same in every process (Python's ``hash`` is not).

    Example:
        >>> digest(b"distopt") == digest(b"distopt")
        True
    """
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")


def agree(communicator: Communicator, call: Call, brought: Brought = NOTHING) -> Agreement:
    """Agree with all replicas on a call, or raise on all of them.

    Args:
        communicator: the replicas.
        call: what this replica is about to do.
        brought: what it brings beside that; not changed.

    Raises:
        CollectiveMismatchError: replicas called different things (on every replica).
        ReplicaFailedError: another replica offered its exception instead.
        ReplicaLeftError: another replica has ended.
    """
    items, size = brought.items, communicator.size
    record = _RECORD.pack(
        Kind.CALL, items is not None, call.step, call.digest if brought.call_digest is None else brought.call_digest,
        brought.hyper_digest, brought.presence, 0.0 if items is None else items, brought.state, brought.flags,
    )  # fmt: skip
    watchdog = communicator.watchdog
    watchdog.call_started(call.name, call.step, communicator.number)
    gathered = communicator.all_gather(np.frombuffer(record, np.uint8)).tobytes()
    watchdog.header_completed()
    if gathered == record * size:  # nearly always
        all_items = (0.0 if items is None else items,) * size
        agreement = Agreement(False, all_items, (brought.state,) * size, (brought.flags,) * size)
    else:
        rows = [gathered[k : k + len(record)] for k in range(0, len(gathered), len(record))]
        head = record[:_MUST_AGREE]
        if not all(row.startswith(head) for row in rows):
            raise _disagreement(communicator, call, rows, items)
        columns = tuple(zip(*map(_RECORD.unpack, rows), strict=True))
        differs = any(other != brought.presence for other in columns[5])
        agreement = Agreement(presence_differs=differs, items=columns[6], states=columns[7], flags=columns[8])
    if current_replica().broken_by is not None:
        forget_trouble()
    return agreement


def offer_failure(communicator: Communicator, error: BaseException, deadline: float | None = None) -> list[Kind]:
    """Take part in the others' next header with an exception instead of a call.

    Returns:
        What each replica brought.
    """
    return end_round(communicator, Kind.RAISED, describe(error), deadline)


def end_round(communicator: Communicator, kind: Kind, text: str, deadline: float | None = None) -> list[Kind]:
    """Take part in one header as a replica that has failed (``RAISED``, ``CONSEQUENCE``)."""
    watchdog, said = communicator.watchdog, as_bytes(text)
    watchdog.call_started(watchdog.call, watchdog.step)
    kinds = [Kind(row[0]) for row in _exchange(communicator, _record(kind), deadline)]
    watchdog.header_completed()
    if Kind.BYTES in kinds:
        raise _in_the_middle(kinds)
    if Kind.RAISED in kinds or Kind.CONSEQUENCE in kinds:
        exchange_bytes(communicator, said, deadline)
    return kinds


def goodbye_round(communicator: Communicator, deadline: float | None = None) -> Iterator[list[Kind] | None]:
    """Take part in one header as a replica that has ended well; None until all have come to it."""
    watchdog, mine = communicator.watchdog, _record(Kind.GOODBYE)
    watchdog.call_started(watchdog.call, watchdog.step)
    for rows in communicator.gathering(np.frombuffer(mine, np.uint8), deadline):
        if rows is None:
            yield None
            continue
        kinds = [Kind(row[0]) for row in rows]
        watchdog.header_completed()
        if Kind.BYTES in kinds:
            raise _in_the_middle(kinds)
        if Kind.RAISED in kinds or Kind.CONSEQUENCE in kinds:
            exchange_bytes(communicator, b"", deadline)
        yield kinds


class telling_the_others:  # noqa: N801 (reads as a statement: with telling_the_others(communicator))
    """Offer an exception of the block to the other replicas, which wait in the header that would have followed.

    An error between replicas is raised on all of them already; without a communicator nobody waits.
    """

    __slots__ = ("_communicator",)  # a class: it stands in every step, and a generator costs a microsecond more

    def __init__(self, communicator: Communicator | None) -> None:
        self._communicator = communicator

    def __enter__(self) -> None:
        """Begin the block."""

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """Tell the others of an error."""
        if isinstance(error, Exception) and not isinstance(error, ReplicaError) and self._communicator is not None:
            offer_failure(self._communicator, error)


def exchange_texts(communicator: Communicator, mine: str) -> list[str]:
    """Give every replica everybody's text, whatever it holds."""
    return [_as_text(data) for data in exchange_bytes(communicator, as_bytes(mine))]


def _as_text(data: bytes) -> str:
    return data.decode(errors="surrogatepass")


def exchange_bytes(communicator: Communicator, mine: bytes, deadline: float | None = None) -> list[bytes]:
    """Give every replica everybody's bytes, of any length."""
    records = [_RECORD.unpack(row) for row in _exchange(communicator, _record(Kind.BYTES, len(mine)), deadline)]
    for replica, (kind, *_) in enumerate(records):
        if kind != Kind.BYTES:  # it has left this call, and what it brings is a header's
            raise does_something_else(replica, "a header", "bytes in the middle of a call")
    sizes = [record[2] for record in records]
    longest = max(sizes)
    if longest == 0:
        return [b""] * len(sizes)
    rows = _exchange(communicator, mine.ljust(longest, b"\0"), deadline)
    return [row[:size] for row, size in zip(rows, sizes, strict=True)]


def _record(kind: Kind, length: int = -1) -> bytes:
    """Return the record of a replica that makes no call."""
    return _RECORD.pack(kind, 0, length, 0, 0, 0, 0.0, 0, 0)


def _exchange(communicator: Communicator, mine: bytes, deadline: float | None = None) -> list[bytes]:
    rows: Array = communicator.all_gather(np.frombuffer(mine, np.uint8), deadline)
    data, size = rows.tobytes(), len(mine)
    return [data[k : k + size] for k in range(0, len(data), size)]


def _disagreement(communicator: Communicator, call: Call, rows: Sequence[bytes], items: float | None) -> Exception:
    kinds = [Kind(row[0]) for row in rows]
    if Kind.BYTES in kinds:
        return _in_the_middle(kinds)
    what = f"{call.name}" + (f" (step {call.step})" if call.step >= 0 else "")
    if Kind.RAISED in kinds or Kind.CONSEQUENCE in kinds:
        failed = kinds.index(Kind.RAISED if Kind.RAISED in kinds else Kind.CONSEQUENCE)
        texts = exchange_bytes(communicator, b"")
        return ReplicaFailedError(
            f"replica {failed} failed while this replica {communicator.index} called {what}: {_as_text(texts[failed])}",
            replica_index=failed,
        )
    if Kind.GOODBYE in kinds:
        left = ", ".join(str(r) for r, kind in enumerate(kinds) if kind is Kind.GOODBYE)
        return ReplicaLeftError(
            f"replica {left} of {communicator.size} has ended (its script is over) while replica "
            f"{communicator.index} called {what}: every replica must make the same calls, the same number of times. "
            "For data of unequal length use distopt.data.batches or distopt.data.join"
        )
    lines = {"call": call.name, "step": "-" if call.step < 0 else str(call.step)}
    lines["items="] = "not given" if items is None else "given"
    lines.update(call.describe())
    lines[_AT] = user_line()
    tables = [json.loads(text) for text in exchange_texts(communicator, json.dumps(lines))]
    return CollectiveMismatchError(_difference(tables))


def _in_the_middle(kinds: Sequence[Kind]) -> ReplicaFailedError:
    """Return the error of a replica that has left a call which others are in the middle of."""
    return does_something_else(kinds.index(Kind.BYTES), "bytes in the middle of a call", "headers")


def _difference(tables: Sequence[Mapping[str, str]]) -> str:
    """Say who differs and how: one line a group of replicas, the differing labels only, and where each one is."""
    labels = list(dict.fromkeys(label for table in tables for label in table))
    differing = [label for label in labels if len({table.get(label) for table in tables}) > 1]
    # Where the calls themselves differ, their arguments say nothing more.
    differing = ["call"] if "call" in differing else [label for label in differing if label != _AT]
    message = ["the replicas do not agree on what to do next:"]
    for label in differing:
        message += _grouped(label, [f"{t.get(label, '-')}{f' at {t[_AT]}' if label == 'call' else ''}" for t in tables])
    if differing != ["call"]:
        message += _grouped(_AT, [table[_AT] for table in tables])
    message.append("Every replica must make the same calls with the same variables and options, in the same order.")
    return "\n".join(message)


def _grouped(label: str, texts: Sequence[str]) -> list[str]:
    groups: dict[str, list[int]] = {}
    for replica, text in enumerate(texts):
        groups.setdefault(text, []).append(replica)
    return [f"  {label}: replica{'s' * (len(r) > 1)} {', '.join(map(str, r))}: {text}" for text, r in groups.items()]
