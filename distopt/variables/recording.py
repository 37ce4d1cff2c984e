"""The recording half of a tape: its block, the values that it watches, its pauses."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Self

from autograd.tracer import isbox

from distopt.arrays import is_floating, to_array
from distopt.errors import InvalidArgumentError
from distopt.process.replica import current_replica
from distopt.variables.array_like import Traced
from distopt.variables.record import Record, TapeNode, trace_numbers
from distopt.variables.tracing import TracedArray, inside_of, node_of, trace_of
from distopt.variables.variable import Variable


class Recording:
    """The half of a tape that records; the other half, ``GradientTape``, differentiates.

    Args:
        persistent: whether gradients may be asked for more than once, and are recorded inside of the block.
        watch_accessed_variables: whether trainable variables are watched as soon as they are read.
    """

    def __init__(self, persistent: bool = False, watch_accessed_variables: bool = True) -> None:
        self._persistent = persistent
        self._watch_accessed = watch_accessed_variables
        self._roots: dict[Variable, TapeNode] = {}
        self._record = Record(-1)

    def __enter__(self) -> Self:
        if self._was_opened:
            raise RuntimeError("This tape was opened before, and a tape records one block. Make a new GradientTape.")
        self._record = Record(next(trace_numbers), keeps_calls=self._persistent)
        self._replica = current_replica()
        self._replica.tapes.append(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._is_open:
            self._replica.tapes.remove(self)

    @property
    def trace(self) -> int:
        """Return the number of the tape's trace, which is greater than those of the tapes around it."""
        return self._record.trace

    @property
    def _was_opened(self) -> bool:
        return self._record.trace >= 0

    @property
    def _is_open(self) -> bool:
        """Return whether the tape records what this thread computes now."""
        return self._was_opened and self in self._replica.tapes

    @contextlib.contextmanager
    def stop_recording(self) -> Iterator[None]:
        """Record nothing inside of this block: what is computed there counts as a constant.

        Raises:
            RuntimeError: the tape is not open.

        Example:
            >>> from distopt import GradientTape
            >>> with GradientTape() as tape:
            ...     x = tape.watch(3.0)
            ...     with tape.stop_recording():
            ...         factor = x * x
            ...     y = factor * x
            >>> float(tape.gradient(y, x))
            9.0

        Source: tf.GradientTape.stop_recording.
        """
        self._refuse_closed("stop_recording")
        tapes, record = self._replica.tapes, self._record
        tapes.remove(self)
        record.is_on = False
        try:
            yield
        finally:
            record.is_on = True
            tapes.append(self)
            tapes.sort(key=lambda tape: tape.trace)

    def reset(self) -> None:
        """Forget everything that was recorded and watched so far, and go on recording.

        Raises:
            RuntimeError: the tape is not open.

        Example:
            >>> from distopt import GradientTape, Variable
            >>> w = Variable(3.0)
            >>> with GradientTape() as tape:
            ...     y = w * w
            ...     tape.reset()
            ...     z = w * 5
            >>> tape.gradient([y, z], w)
            array(5., dtype=float32)

        Source: tf.GradientTape.reset.
        """
        self._refuse_closed("reset")
        self._record.is_on = False
        self._record = Record(self.trace, keeps_calls=self._persistent)
        self._roots = {}

    def watch(self, x: Any) -> Any:
        """Follow ``x`` from now on.

        Args:
            x: a Variable, trainable or not; a floating array or number; or a list, tuple or dict of these.

        Returns:
            The value to use in place of ``x``: the variable itself, or for an array its traced value.

        Raises:
            RuntimeError: the tape is not open.
            InvalidArgumentError: an array of integers, which has no derivative.

        Example:
            >>> from distopt import GradientTape
            >>> with GradientTape() as tape:
            ...     x = tape.watch(3.0)
            ...     y = x * x
            >>> float(tape.gradient(y, x))
            6.0
        """
        self._refuse_closed("watch")
        if isinstance(x, (list, tuple)):
            return type(x)(map(self.watch, x))
        if isinstance(x, dict):
            return {key: self.watch(value) for key, value in x.items()}
        if isinstance(x, Variable):
            if x not in self._roots and is_floating(x.dtype):
                self._roots[x] = TapeNode.new_root(x, x, self._record)
            return x
        value: Any = x if isinstance(x, Traced) else to_array(x, "what tape.watch received")
        if self.follows(value):
            return value
        if not is_floating(value.dtype):
            raise InvalidArgumentError(
                f"tape.watch received an array of {value.dtype}, which has no derivative. Use x.astype('float32')."
            )
        value = inside_of(value) if trace_of(value) == self.trace else value  # a constant of this tape until now
        return TracedArray(value, self.trace, TapeNode.new_root(value, None, self._record))

    def watched_variables(self) -> tuple[Variable, ...]:
        """Return the variables that this tape follows, in the order in which they were first read or watched."""
        return tuple(self._roots)

    def follow(self, variable: Variable, value: Any) -> Any:
        """Return ``value``, the variable's value as outer tapes see it; as a traced value if this tape watches."""
        if self._watch_accessed and variable.trainable:
            self.watch(variable)
        return self._box(variable, value)

    def follows(self, value: Any) -> bool:
        """Return whether this tape records what is computed from ``value``, as long as the tape is open."""
        return isbox(value) and self._here(value) is not None

    def _box(self, variable: Variable, value: Any) -> Any:
        root = self._roots.get(variable)
        return value if root is None else TracedArray(value, self.trace, root)

    def _here(self, value: Any) -> Any:
        """Return this tape's box in ``value``, inside of the boxes of inner tapes; None if there is none."""
        while trace_of(value) > self.trace:
            value = inside_of(value)
        return value if trace_of(value) == self.trace and node_of(value).record is self._record else None

    def _refuse_closed(self, method: str) -> None:
        if not self._is_open:
            raise RuntimeError(
                f"tape.{method} outside of the tape's block. Call it inside of `with GradientTape() as tape:`."
            )
