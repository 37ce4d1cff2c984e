"""Reads the sentences of ``distopt.testing.faults.injection``."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

from distopt.errors import InvalidArgumentError
from distopt.testing.faults.kinds import KINDS, Fault
from distopt.testing.faults.places import PLACES, WITHOUT_STEP

_SENTENCE = re.compile(
    r"(?P<what>.+?)(?: on| in)? replica (?P<replica>\d+)(?P<place> .+?)??(?: at step (?P<step>\d+))?"
)


def parse(text: str) -> Fault:
    """Return the fault that a sentence describes.

    Args:
        text: ``<kind> replica <r> [<place>] at step <n>``.

    Raises:
        InvalidArgumentError: the text is no such sentence; the message has the nearest sentence and the grammar.

    Example:
        >>> parse("delay 0.5 s replica 1 in the payload at step 3")
        Fault(kind='delay', replica=1, place='in the payload', step=3, argument='0.5')
    """
    match = _SENTENCE.fullmatch(" ".join(text.split()))
    if match is None:
        raise _wrong(text, "it does not name a replica by its number")
    kind, argument = _kind(text, match["what"])
    allowed = KINDS[kind].places
    place = match["place"].strip() if match["place"] else allowed[0]
    if place not in PLACES:
        raise _wrong(text, f"{place!r} is no place{_nearest(place, [*PLACES, 'at step 0'])}")
    if place not in allowed:
        raise _wrong(text, f"{kind!r} can't happen {place}, only {', '.join(allowed)}")
    has_step = match["step"] is not None
    if has_step == (place in WITHOUT_STEP):
        reason = f"{place!r} belongs to no step: leave 'at step' out" if has_step else "it does not say at which step"
        raise _wrong(text, reason)
    return Fault(kind, int(match["replica"]), place, int(match["step"]) if has_step else None, argument)


def _kind(text: str, what: str) -> tuple[str, str]:
    """Return the kind and its argument."""
    for name, kind in KINDS.items():
        if what == name or what.startswith(name + " "):
            match = re.fullmatch(kind.argument, what.removeprefix(name).strip())
            if match is None:
                needs = "needs its seconds, such as 'delay 0.5'" if name == "delay" else "takes no such addition"
                raise _wrong(text, f"{name!r} {needs}: received {what!r}")
            return name, (match[1] or "") if match.lastindex else ""
    raise _wrong(text, f"{what!r} is no kind of fault{_nearest(what, KINDS)}")


def _nearest(word: str, known: Iterable[str]) -> str:
    by_case = {name.lower(): name for name in known}
    close = difflib.get_close_matches(word.lower(), by_case, n=1, cutoff=0.5)
    return f"; did you mean {by_case[close[0]]!r}?" if close else ""


def _wrong(text: str, reason: str) -> InvalidArgumentError:
    return InvalidArgumentError(
        f"inject({text!r}): {reason}. Expected '<kind> replica <r> [<place>] at step <n>' (the first step is 0), with "
        f"kind: {', '.join(KINDS)} (delay <seconds>, flip a bit [of <variable>]); place: {', '.join(PLACES)}. "
        f"No step: {', '.join(WITHOUT_STEP)}"
    )
