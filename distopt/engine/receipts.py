"""The line that a step leaves in a receipt, where one was asked for."""

from __future__ import annotations

from distopt.engine.call import StepCall
from distopt.slabs.gradients import Gradients
from distopt.telemetry.receipt import Receipt


class StepReceipt:
    """One step's line.

    Args:
        receipt: what writes it.
        step: the number of the step.
        gradients: what takes part, before it is summed.
    """

    def __init__(self, receipt: Receipt, step: int, gradients: Gradients) -> None:
        self._receipt, self._step, self._variables = receipt, step, gradients.slab.variables
        self._names = [variable.name for variable in self._variables]
        receipt.note_gradients(step, gradients.items, self._names, gradients.by_variable())

    @classmethod
    def begun(cls, call: StepCall, gradients: Gradients) -> StepReceipt | None:
        """Begin the line of a step; None where nobody has asked for one."""
        strategy = call.strategy
        if strategy is None or strategy.receipt is None:
            return None
        receipt = Receipt.of(strategy.receipt, strategy.replica_index, strategy.num_replicas_in_sync)
        return cls(receipt, call.engine.training.calls, gradients)

    def end(self, total_items: float | None, norm: float | None) -> None:
        """Write the line; a step that nobody has looked at has none."""
        if norm is not None:
            arrays = [variable.storage.array for variable in self._variables]
            self._receipt.note_update(self._step, total_items, norm, self._names, arrays)
