"""Exchanges small messages between replicas, after a header, so that all of them raise the same error."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from distopt.checkpoint.files import BadFileError
from distopt.distribute.agreement.communicator import Communicator
from distopt.distribute.agreement.header import exchange_bytes
from distopt.errors import CheckpointError


def tell(communicator: Communicator, mine: Any) -> list[Any]:
    """Send this replica's value to all others, as JSON; return the values of all replicas."""
    return [json.loads(row) for row in exchange_bytes(communicator, json.dumps(mine).encode())]


def do_together(communicator: Communicator, act: Callable[[], None]) -> str | None:
    """Call ``act`` on every replica and wait until all have done so; return the first file that was bad on any replica.

    Raises:
        CheckpointError: on every replica, where ``act`` failed on any replica for another reason than a bad file.
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
