"""Former names of public things: they still work, and warn."""

from __future__ import annotations

import warnings
from typing import Any


def warn_of_former_name(former: str, new_name: str) -> None:
    """Warn the caller's caller that a name has become another.

    Args:
        former: the name that was used.
        new_name: the name to use.
    """
    text = f"{former} is now called {new_name}: use that name. The former one will go"
    warnings.warn(text, DeprecationWarning, stacklevel=3)


class FormerName:
    """A former name of an attribute or a method, as an attribute of its class.

    Args:
        new_name: the name that it has now.
    """

    def __init__(self, new_name: str) -> None:
        self.new_name, self._former = new_name, ""

    def __set_name__(self, owner: type, name: str) -> None:
        self._former = f"{owner.__name__}.{name}"

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        if instance is None:
            return self
        warn_of_former_name(self._former, self.new_name)
        return getattr(instance, self.new_name)

    def __set__(self, instance: Any, value: Any) -> None:
        warn_of_former_name(self._former, self.new_name)
        setattr(instance, self.new_name, value)


def adopt_former_names(subclass: type) -> None:
    """Give what a subclass still defines under a former name the new name as well, and warn."""
    former_names = {
        name: value for base in subclass.__mro__ for name, value in vars(base).items() if isinstance(value, FormerName)
    }
    for name, former in former_names.items():
        own = vars(subclass)
        if name in own and not isinstance(own[name], FormerName) and former.new_name not in own:
            warn_of_former_name(f"{subclass.__name__}.{name}", former.new_name)
            setattr(subclass, former.new_name, own[name])
