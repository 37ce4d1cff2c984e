"""Former names of public things: they still work, and warn."""

from __future__ import annotations

import warnings
from typing import Any


def warn_of_former_name(former: str, present: str) -> None:
    """Warn the caller's caller that a name has become another.

    Args:
        former: the name that was used.
        present: the name to use.
    """
    text = f"{former} is now called {present}: use that name. The former one will go"
    warnings.warn(text, DeprecationWarning, stacklevel=3)


class FormerName:
    """A former name of an attribute or a method, as an attribute of its class.

    Args:
        present: the name that it has now.
    """

    def __init__(self, present: str) -> None:
        self.present, self._former = present, ""

    def __set_name__(self, owner: type, name: str) -> None:
        self._former = f"{owner.__name__}.{name}"

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        if instance is None:
            return self
        warn_of_former_name(self._former, self.present)
        return getattr(instance, self.present)

    def __set__(self, instance: Any, value: Any) -> None:
        warn_of_former_name(self._former, self.present)
        setattr(instance, self.present, value)


def adopt_former_names(subclass: type) -> None:
    """Give what a subclass still defines under a former name the present name as well, and warn."""
    former_names = {
        name: value for base in subclass.__mro__ for name, value in vars(base).items() if isinstance(value, FormerName)
    }
    for name, former in former_names.items():
        own = vars(subclass)
        if name in own and not isinstance(own[name], FormerName) and former.present not in own:
            warn_of_former_name(f"{subclass.__name__}.{name}", former.present)
            setattr(subclass, former.present, own[name])
