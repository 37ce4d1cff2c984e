"""Exponential moving averages of the weights, in the Keras 3 family: ``ŵ ← μ ŵ + (1 - μ) w`` after each update."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from distopt.arguments import flag, within
from distopt.distribute.node.node_sum import Spread
from distopt.engine.sweep.sharing import agree_on_state, complete_slots
from distopt.errors import InvalidArgumentError
from distopt.kernels import Array, Rule, Scalar, update
from distopt.memory.flat_buffer import FlatBuffer
from distopt.memory.storage import note_writes
from distopt.optimizers.common.rule_updates import RuleUpdates
from distopt.variables.variable import Variable


def _average(p: Array, g: Array, momentum: Scalar, weight: Scalar) -> None:
    p[...] = momentum * p + weight * g


AVERAGE = Rule(
    name="average",
    slots=(),
    scalars=("momentum", "weight"),
    sparse="all",
    reference=_average,
    body="p = momentum * p + weight * g",
)
"""The average is the parameter of this rule, and the weight its gradient."""


class MovingAverage(RuleUpdates):
    """The part of the Keras 3 optimizer that averages weights: all that it was built for, in every step."""

    _trainable_variables: list[Variable]
    _step_number: Any
    _get_variable_index: Any

    def _set_moving_average(self, use_ema: Any, momentum: Any, overwrite_frequency: Any) -> None:
        owner = type(self).__name__
        self._use_ema = flag(owner, "use_ema", use_ema)
        self.ema_momentum = within(owner, "ema_momentum", momentum, 0, 1) if self.use_ema else momentum
        is_count = isinstance(overwrite_frequency, (int, np.integer)) and overwrite_frequency >= 1
        if self.use_ema and overwrite_frequency is not None and not is_count:
            raise InvalidArgumentError(
                f"{owner}(ema_overwrite_frequency={overwrite_frequency!r}): expected a number of steps, 1 or more, "
                "or None to overwrite nothing"
            )
        self.ema_overwrite_frequency = overwrite_frequency

    @property
    def use_ema(self) -> bool:
        """Whether averages are kept; the constructor decides."""
        return self._use_ema

    def _update_averages(self, step: int) -> None:
        """Average the weights after the update of a step (from 1), and overwrite them where it is time."""
        if not self.use_ema:
            return
        momentum = 0.0 if step == 1 else self.ema_momentum
        overwrites = self.ema_overwrite_frequency is not None and step % self.ema_overwrite_frequency == 0
        for home, parts in self._own_parts().items():
            average = self._engine.slots.flats[home, "average"]
            exact = self._engine.slots.flats.get((home, "master"), home.flat)
            spans = np.array([(begin, begin, end - begin) for begin, end in parts], np.int64).reshape(-1, 3)
            update(AVERAGE, average, exact, [], [momentum, 1 - momentum], spans)
            if overwrites:
                for begin, end in parts:
                    home.flat[begin:end] = exact[begin:end] = average[begin:end]
                self._publish(home)
        if overwrites:  # those outside of the step's list too: others keep exact copies of them
            note_writes(variable.storage for variable in self._trainable_variables)

    def _own_parts(self) -> dict[FlatBuffer, list[tuple[int, int]]]:
        parts: dict[FlatBuffer, list[tuple[int, int]]] = {}
        for variable in self._trainable_variables:
            home = variable.storage.buffer
            parts.setdefault(home, []).extend(home.parts(variable.storage.start, variable.size))
        return parts

    def _publish(self, home: FlatBuffer) -> None:
        """Bring overwritten weights to the other nodes: the step itself does so for those of its list only."""
        node = self._engine.slots.shared.get((home, "average"))
        if node is not None and not node.is_whole_job:
            owned = home.owned(node.communicator.size)
            views: list[list[Array]] = [[home.flat[begin:end] for begin, end in ranges] for ranges in owned]
            Spread(node, views, once=True)()

    def finalize_variable_values(self, var_list: Iterable[Variable]) -> None:
        """Overwrite variables by their averages, after training; with ``update="shared"`` a collective.

        Args:
            var_list: the variables; changed. Without ``use_ema``, and before the first step, nothing is done. Averages
                are taken before constraints, as in Keras.

        Raises:
            InvalidArgumentError: a variable that the optimizer was not built for.

        Example:
            >>> import distopt
            >>> w = distopt.Variable([1.0])
            >>> sgd = distopt.optimizers.SGD(learning_rate=1.0, use_ema=True, ema_momentum=0.5)
            >>> for _ in range(2):
            ...     _ = sgd.apply_gradients([([1.0], w)])
            >>> sgd.finalize_variable_values([w])
            >>> float(w[0])
            -0.5
        """
        variables = [var_list] if isinstance(var_list, Variable) else list(var_list)
        if not self.use_ema or self._step_number == 1:
            return
        for variable in variables:
            self._get_variable_index(variable)
        agree_on_state(self._engine.slots, f"finalize_variable_values of {type(self).__name__}")
        complete_slots(self._engine.slots)
        for variable in variables:
            variable.assign(self._engine.slots.table[variable, "average"].numpy())
