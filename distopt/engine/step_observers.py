"""The observers of one step, and what a step tells them."""

from __future__ import annotations

from distopt.engine.agreement import Agreed
from distopt.engine.call import StepCall
from distopt.process.moments import Moment, Observers
from distopt.slabs.gradients import Gradients
from distopt.slabs.report import StepReport


class StepObservers:
    """The observers of one step; most steps have none.

    Args:
        observers: who is told.
        report: what they are told.
    """

    def __init__(self, observers: Observers, report: StepReport) -> None:
        self._observers, self._report = observers, report

    @classmethod
    def of(cls, call: StepCall, gradients: Gradients, agreed: Agreed) -> StepObservers | None:
        """Return the observers of a step among replicas; None where nobody observes it."""
        if call.observers is None or call.strategy is None:
            return None
        step = call.engine.training.calls
        return cls(call.observers, StepReport(call.strategy, step, gradients.items, agreed.items, gradients))

    def tell(self, moment: Moment, norm: float | None = None) -> None:
        """Tell of a moment.

        Args:
            moment: which.
            norm: of the aggregate, where somebody has looked at it.
        """
        if norm is not None:
            self._report.norm = norm
        self._observers.tell(moment, self._report)
