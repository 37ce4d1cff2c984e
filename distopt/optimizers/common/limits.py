"""The limits of clipping as attributes of an optimizer."""

from __future__ import annotations

from typing import Any

from distopt.engine.engine import Engine
from distopt.transformers import checked_limit


def _limit(name: str) -> Any:
    def read(self: Limits) -> float | None:
        limit: float | None = getattr(self._engine.options.clipping, name)
        return limit

    def write(self: Limits, value: float | None) -> None:
        if value is not None:
            self._refuse_limit(name, value)
        self._engine.options.limit_by(name, checked_limit(name, value))

    return property(read, write, doc=f"The limit {name}, or None.")


class Limits:
    """``clipvalue``, ``clipnorm`` and ``global_clipnorm``; each family says what excludes them."""

    _engine: Engine

    clipvalue = _limit("clipvalue")
    clipnorm = _limit("clipnorm")
    global_clipnorm = _limit("global_clipnorm")

    def _refuse_limit(self, name: str, value: float) -> None:
        """Raise where a limit can't be set beside what is set already."""
        raise NotImplementedError
