"""``python -m distopt.testing.faults.script 'kill replica 2 at step 5' script.py args...`` runs a script with faults.

Several faults are given as ``-i SENTENCE -i SENTENCE script.py args...``. The sentences are described in
``distopt.testing.faults.injection``.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from distopt.errors import InvalidArgumentError
from distopt.program import script
from distopt.testing.faults.injection import inject


def main(arguments: Sequence[str]) -> None:
    """Inject the faults, and run the script as Python would."""
    sentences, command = split(arguments)
    inject(*sentences)
    script.main(command)


def split(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the sentences, and the script with its arguments.

    Raises:
        InvalidArgumentError: the sentences or the script are missing.

    Example:
        >>> split(["-i", "kill replica 1 at step 0", "-i", "hang replica 0 at exit", "train.py", "-i", "5"])
        (['kill replica 1 at step 0', 'hang replica 0 at exit'], ['train.py', '-i', '5'])
    """
    sentences, rest = [], list(arguments)
    while rest[:1] == ["-i"] and len(rest) > 1:
        sentences.append(rest[1])
        rest = rest[2:]
    if not sentences and rest:
        sentences, rest = rest[:1], rest[1:]
    if not rest:
        raise InvalidArgumentError(
            f"distopt.testing.faults.script received {list(arguments)}: expected a sentence (or several, each after "
            "-i), then the script and its arguments"
        )
    return sentences, rest


if __name__ == "__main__":
    main(sys.argv[1:])
