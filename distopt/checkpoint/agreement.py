"""How replicas tell each other, after a header, what each has found."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from distopt.checkpoint.files import BadFileError
from distopt.distribute.agreement.communicator import Communicator
from distopt.distribute.agreement.header import exchange_bytes
from distopt.errors import CheckpointError


def tell(communicator: Communicator, mine: Any) -> list[Any]:
    """Give every replica what all others have, as JSON."""
    return [json.loads(row) for row in exchange_bytes(communicator, json.dumps(mine).encode())]


def do_together(communicator: Communicator, act: Callable[[], None]) -> str | None:
    """Do something on every replica, and wait until all have; return which file was bad on any.

    Raises:
        CheckpointError: on every replica, where it failed on any in another way.
    """
    failure, bad, wrong = None, None, None
    try:
        act()
    except BadFileError as error:
        bad = str(error)
    except Exception as error:  # the others wait: whatever it is, they must be told
        failure, wrong = error, str(error) if isinstance(error, CheckpointError) else f"{type(error).__name__}: {error}"
    rows = tell(communicator, {"bad": bad, "wrong": wrong})
    failures = {r: row["wrong"] for r, row in enumerate(rows) if row["wrong"]}
    if failures:
        first, text = next(iter(failures.items()))
        alike = len(failures) == len(rows) and len(set(failures.values())) == 1
        cause = None if isinstance(failure, CheckpointError) else failure
        raise CheckpointError(text if alike else f"replica {first}: {text}") from cause
    found: str | None = next((row["bad"] for row in rows if row["bad"]), None)
    return found
