"""The limits of clipping as attributes of an optimizer."""

from __future__ import annotations

from typing import Any

from distopt.optimizers.common.face import Face
from distopt.transformers import checked_limit


def limit(name: str) -> Any:
    """Return a property that gets and sets a limit of clipping."""

    def read(self: Face) -> float | None:
        value: float | None = getattr(self._distopt_engine.options.clipping, name)
        return value

    def write(self: Any, value: float | None) -> None:
        if value is not None:
            self._distopt_refuse_limit(name, value)
        self._distopt_engine.options.limit_by(name, checked_limit(name, value))

    return property(read, write, doc=f"The limit {name}, or None.")
