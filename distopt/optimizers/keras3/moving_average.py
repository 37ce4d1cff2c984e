"""Exponential moving averages of the weights, in the Keras 3 family: ``ŵ ← μ ŵ + (1 - μ) w`` after each update."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from distopt.arguments import as_int, flag, within
from distopt.distribute.node.node_sum import Spread
from distopt.engine.state.slot_store import SlotStore
from distopt.engine.sweep.shared_mode import agree_on_state, complete_slots
from distopt.errors import InvalidArgumentError
from distopt.kernels import Array, Rule, Scalar, update
from distopt.memory.flat_buffer import FlatBuffer
from distopt.memory.storage import note_writes
from distopt.optimizers.keras3.master_weights import MASTER_SLOT
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
"""The rule of averaging: it treats the average as its parameter, and the weight as the gradient."""


AVERAGE_SLOT = "average"
"""The label of the slots that hold averages."""


class MovingAverage:
    """The averages of one optimizer's weights; every step averages all weights for which the optimizer was built.

    Args:
        owner: the optimizer's class, for messages.
        is_kept: whether there are averages at all.
        momentum: μ, 0 to 1.
        overwrite_frequency: number of steps after which the weights are overwritten each time; None: never in a step.

    Raises:
        InvalidArgumentError: an impossible value.
    """

    def __init__(
        self, owner: str, is_kept: Any, momentum: Any, overwrite_frequency: Any, *, begins_with_weights: bool = False
    ) -> None:
        self._owner = owner
        self.is_kept = flag(owner, "use_ema", is_kept)
        self.begins_with_weights = begins_with_weights
        """True where averages begin with the weights as they are before the first step, not after it."""
        self.agreed: dict[str, float] = {}
        """The numbers on which replicas must agree in every step, by the names of the arguments."""
        self.set(momentum, overwrite_frequency)

    def set(self, momentum: Any, overwrite_frequency: Any) -> None:
        """Set μ, and the number of steps after which the weights are overwritten each time.

        Raises:
            InvalidArgumentError: an impossible value, where averages are kept.
        """
        if self.is_kept:
            momentum = within(self._owner, "ema_momentum", momentum, 0, 1)
            self.agreed = {"ema_momentum": momentum}
            if overwrite_frequency is not None:
                overwrite_frequency = self._checked_frequency(overwrite_frequency)
                self.agreed["ema_overwrite_frequency"] = float(overwrite_frequency)
        self.momentum, self.overwrite_frequency = momentum, overwrite_frequency

    def _checked_frequency(self, frequency: Any) -> int:
        steps = as_int(frequency)
        if steps is None or steps < 1:
            raise InvalidArgumentError(
                f"{self._owner}(ema_overwrite_frequency={frequency!r}): expected a number of steps, 1 or more, or None "
                "to overwrite nothing"
            )
        return steps

    def update(self, variables: Sequence[Variable], slots: SlotStore, step: int) -> None:
        """Average weights after the update of a step, and overwrite them in the steps chosen for that.

        Args:
            variables: all variables for which the optimizer was built.
            slots: the slots, which hold the averages; changed.
            step: the number of the step, from 1.
        """
        momentum = 0.0 if step == 1 and not self.begins_with_weights else self.momentum
        overwrites = self.overwrite_frequency is not None and step % self.overwrite_frequency == 0
        for buffer, parts in _own_parts(variables).items():
            average = slots.flats[buffer, AVERAGE_SLOT]
            exact = slots.flats.get((buffer, MASTER_SLOT), buffer.flat)
            spans = np.array([(begin, begin, end - begin) for begin, end in parts], np.int64).reshape(-1, 3)
            update(AVERAGE, average, exact, [], [momentum, 1 - momentum], spans)
            if overwrites:
                for begin, end in parts:
                    buffer.flat[begin:end] = exact[begin:end] = average[begin:end]
                _publish(buffer, slots)
        if overwrites:  # those outside of the step's list too: others keep exact copies of them
            note_writes(variable.storage for variable in variables)

    def overwrite(self, variables: Sequence[Variable], slots: SlotStore, call: str) -> None:
        """Overwrite variables by their averages; where replicas share them, all of them must make this call.

        Args:
            variables: the variables; changed.
            slots: the slots, which hold the averages.
            call: the name of the user's call, for messages.
        """
        agree_on_state(slots, call)
        complete_slots(slots)
        for variable in variables:
            variable.assign(slots.table[variable, AVERAGE_SLOT].numpy())


def _own_parts(variables: Sequence[Variable]) -> dict[FlatBuffer, list[tuple[int, int]]]:
    """Return the ranges of the buffers that this replica averages."""
    parts: dict[FlatBuffer, list[tuple[int, int]]] = {}
    for variable in variables:
        buffer = variable.storage.allocated_buffer
        parts.setdefault(buffer, []).extend(buffer.parts(variable.storage.start, variable.size))
    return parts


def _publish(buffer: FlatBuffer, slots: SlotStore) -> None:
    """Send overwritten weights to the other nodes; the step itself sends only the variables in its list."""
    node = slots.shared.get((buffer, AVERAGE_SLOT))
    if node is not None and not node.is_whole_job:
        owned = buffer.split_among(node.communicator.size)
        views: list[list[Array]] = [[buffer.flat[begin:end] for begin, end in ranges] for ranges in owned]
        Spread(node, views, once=True)()
