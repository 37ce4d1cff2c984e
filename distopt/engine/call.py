"""One call of a step: who steps, among whom, and what that implies."""

from __future__ import annotations

from collections.abc import Mapping

from distopt.distribute.agreement.communicator import Communicator
from distopt.distribute.agreement.header import Call, offer_failure
from distopt.distribute.strategy import Strategy
from distopt.engine.engine import Engine
from distopt.engine.state.family import Family
from distopt.engine.sweep.shared_mode import needs_whole_sum
from distopt.errors import ReplicaError
from distopt.process.moments import ACTIVE, Moment, Observers
from distopt.process.replica import Replica
from distopt.slabs.listing import Listing
from distopt.telemetry.receipt_observer import observe_for_receipt


class StepCall:
    """One call of ``apply_gradients``, ``begin_step`` or ``end_step``, and who takes part in it.

    Args:
        family: the optimizer.
        engine: its engine.
        strategy: the replicas; None communicates nothing.
        replica: this one.
        name: what the user called.
    """

    __slots__ = (
        "communicator", "engine", "family", "has_header", "looks", "name", "observers", "replica", "shares", "strategy"
    )  # fmt: skip

    def __init__(self, family: Family, engine: Engine, strategy: Strategy | None, replica: Replica, name: str) -> None:
        self.family, self.engine, self.strategy, self.replica, self.name = family, engine, strategy, replica, name
        self.communicator: Communicator | None = None if strategy is None else strategy.communicator
        """The communicator of the replicas; None where nothing is communicated."""
        self.has_header = strategy is not None and engine.options.lockstep
        """True where the replicas agree on this step."""
        self.looks = False
        """True where the sums are looked at before anything is updated, and the replicas can talk about it."""
        self.shares = False
        """True where parameters and slots are those of the node."""
        self.observers: Observers | None = None
        """The observers of this step; None where there are none."""
        if strategy is not None:
            self.looks = self.has_header and (strategy.inspects or engine.training.skips_nonfinite)
            self.note_mode(strategy)
            if strategy.receipt is not None:
                observe_for_receipt(strategy)
        if ACTIVE:
            self.observers = replica.observers or None

    def note_mode(self, strategy: Strategy) -> None:
        """Note whether parameters are shared: replicas that find no memory in common go on without."""
        self.shares = strategy.update == "shared" and strategy.shares_parameters

    @property
    def aggregating_strategy(self) -> Strategy:
        """The replicas, in a step that aggregates."""
        assert self.strategy is not None
        return self.strategy

    def offer(self, error: Exception) -> None:
        """Offer an exception to the other replicas, in place of the header that would have followed.

        An error between replicas is raised on all of them already.
        """
        if self.communicator is not None and not isinstance(error, ReplicaError):
            offer_failure(self.communicator, error)

    def needs_whole_sum(self, listing: Listing) -> str | None:
        """Return what has to see the whole sum, as a message says it; None where a step can go block by block."""
        if self.observers is not None and self.observers.want(Moment.SUMS):
            return "an observer of the sums"
        if self.strategy is None:
            return "experimental_aggregate_gradients=False"
        return needs_whole_sum(self.engine.options, self.family, listing, looks=self.looks)

    def optimizer_description(self) -> str:
        """Return which optimizer this is, as all replicas know it."""
        return self.engine.optimizer_description(self.family.identity(), self.aggregating_strategy.communicator)

    def header(
        self, listing: Listing, name: str, step: int = -1, values: Mapping[str, float | str] | None = None
    ) -> Call:
        """Return what the replicas agree on: who steps what, in which step, with which hyperparameters."""

        def describe() -> dict[str, str]:
            description = {"optimizer": self.optimizer_description(), "variables": listing.description}
            return description | {label: str(value) for label, value in (values or {}).items()}

        return Call(f"{name} of {self.family.kind}", describe, step)
