"""One call of a step: who steps, among whom."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from distopt.distribute.agreement.communicator import Communicator
from distopt.distribute.agreement.header import Call, telling_the_others
from distopt.distribute.strategy import Strategy
from distopt.engine.engine import Engine
from distopt.engine.state.family import Family
from distopt.engine.sweep.sharing import needs_whole_sum
from distopt.process.moments import Moment, Observers
from distopt.process.replica import current_replica
from distopt.slabs.slab import Slab
from distopt.telemetry.receipt_observer import observe_for_receipt


@dataclass(slots=True)
class StepCall:
    """What ``apply_gradients``, ``begin_step`` and ``end_step`` are called with.

    Args:
        family: the optimizer.
        engine: its engine.
        strategy: the replicas; None communicates nothing.
        name: what the user called.
        observers: found by itself.
    """

    family: Family
    engine: Engine
    strategy: Strategy | None
    name: str
    observers: Observers | None = None
    """Who is told of this step; None where nobody is."""

    def __post_init__(self) -> None:
        if self.strategy is not None and self.strategy.receipt is not None:
            observe_for_receipt(self.strategy)
        self.observers = current_replica().observers or None

    @property
    def communicator(self) -> Communicator | None:
        """How the replicas reach each other; None where nothing is communicated."""
        return None if self.strategy is None else self.strategy.communicator

    @property
    def aggregating_strategy(self) -> Strategy:
        """The replicas, in a step that aggregates."""
        assert self.strategy is not None
        return self.strategy

    def telling_the_others(self) -> telling_the_others:
        """Offer an exception of the block to the other replicas, in place of the header that would have followed."""
        return telling_the_others(self.communicator)

    @property
    def has_header(self) -> bool:
        """Whether the replicas agree on this step."""
        return self.strategy is not None and self.engine.options.lockstep

    @property
    def looks(self) -> bool:
        """Whether the sums are looked at before anything is updated, and the replicas can talk about it."""
        if self.strategy is None or not self.engine.options.lockstep:
            return False
        return self.strategy.inspects or self.engine.training.skips_nonfinite

    def needs_whole_sum(self, slab: Slab) -> str | None:
        """Return what has to see the whole sum, as a message says it; None where a step can go block by block."""
        if self.observers is not None and self.observers.want(Moment.SUMS):
            return "an observer of the sums"
        if self.strategy is None:
            return "experimental_aggregate_gradients=False"
        return needs_whole_sum(self.engine.options, self.family, slab, looks=self.looks)

    def told(self) -> str:
        """Return which optimizer this is, as all replicas know it."""
        return self.engine.told(self.family.identity(), self.aggregating_strategy.communicator)

    def header(self, slab: Slab, name: str, step: int = -1, values: Mapping[str, float | str] | None = None) -> Call:
        """Return what the replicas agree on: who steps what, in which step, with which hyperparameters."""

        def describe() -> dict[str, str]:
            description = {"optimizer": self.told(), "variables": slab.description}
            return description | {label: str(value) for label, value in (values or {}).items()}

        return Call(f"{name} of {self.family.kind}", describe, step)
