"""Options of a strategy: its checks while replicas train, and its deadlines. Their defaults come from the environment.

``DISTOPT_CHECKS="state_every=10,on_nonfinite=skip"`` and ``DISTOPT_DEADLINES="warn=2,silent=5,end=5"`` set them without
a change of the script.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Self

from distopt.arguments import as_float
from distopt.errors import InvalidArgumentError
from distopt.settings import Setting


@dataclass(frozen=True)
class _Options:
    @classmethod
    def from_environment(cls, setting: Setting[str]) -> Self:
        """Return the options that an environment variable sets, ``name=value,name=value``; defaults for the others.

        Raises:
            InvalidArgumentError: an option that is not known, or a value that can't be right.
        """
        variable = setting.name
        given: dict[str, Any] = {}
        known = {field.name: field for field in fields(cls)}
        for part in filter(None, setting.read().replace(" ", "").split(",")):
            name, _, text = part.partition("=")
            if name not in known:
                raise InvalidArgumentError(f"{variable}: unknown option {name!r}: known are {', '.join(known)}")
            is_text = known[name].default is None or isinstance(known[name].default, str)
            given[name] = text if is_text else _number(variable, name, text)
        try:
            return cls(**given)
        except InvalidArgumentError as error:
            raise InvalidArgumentError(f"{variable}: {error}") from None


@dataclass(frozen=True)
class Checks(_Options):
    """The checks of a step.

    Args:
        state_every: parameters and slots are compared between replicas before every so many steps; 0 never does.
        on_divergence: ``"raise"`` a DivergedError on all replicas, or ``"resync"``: go on from replica 0's values.
        on_nonfinite: where the sum of the gradients holds NaN or an infinity, ``"raise"`` a NonFiniteGradientError or
            ``"skip"`` the step, on all replicas; None lets it pass, as Keras does.

    Raises:
        InvalidArgumentError: a value that can't be right.

    Example:
        >>> Checks(state_every=100).on_divergence
        'raise'
    """

    state_every: int = 50
    on_divergence: str = "raise"
    on_nonfinite: str | None = None

    def __post_init__(self) -> None:
        every = as_float(self.state_every)
        if not (every >= 0 and every.is_integer()):
            raise InvalidArgumentError(f"state_every={self.state_every!r}: expected a number of steps, or 0 for never")
        if self.on_divergence not in ("raise", "resync"):
            raise InvalidArgumentError(f"on_divergence={self.on_divergence!r}: expected 'raise' or 'resync'")
        if self.on_nonfinite not in (None, "raise", "skip"):
            raise InvalidArgumentError(f"on_nonfinite={self.on_nonfinite!r}: expected None, 'raise' or 'skip'")


@dataclass(frozen=True)
class Deadlines(_Options):
    """The seconds that a replica waits for another one.

    Args:
        warn: after this time the missing replicas are named, and all stacks are written into one file.
        silent: after this time waiting is an error, if a missing replica is dead or stopped, or is on another node and
            gives no sign of life. Compiled code there that keeps the interpreter's lock for longer needs more.
        end: the same, if it may be busy.

    Raises:
        InvalidArgumentError: a time that is not positive.

    Example:
        >>> Deadlines(warn=2).end
        1800.0
    """

    warn: float = 10.0
    silent: float = 60.0
    end: float = 1800.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not as_float(value) > 0:
                raise InvalidArgumentError(f"{field.name}={value!r}: expected a time in seconds, more than 0")


def _number(variable: str, name: str, text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        raise InvalidArgumentError(f"{variable}: {name}={text!r}: expected a number") from None
    return int(number) if number.is_integer() else number
