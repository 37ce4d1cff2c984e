"""What an optimizer has of the engine: options, training state, slots, gradients, plans."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from distopt.distribute.agreement.communicator import Communicator
from distopt.distribute.strategy import get_strategy
from distopt.engine.plan import Plan
from distopt.engine.state.divergence import StateCheck
from distopt.engine.state.options import StepOptions
from distopt.engine.state.slot_store import SlotStore
from distopt.engine.state.training_state import TrainingState
from distopt.memory.arena import place
from distopt.slabs.slab import Slab
from distopt.variables.variable import Variable


class Engine:
    """The engine of one optimizer: every piece of state has its owner here, and none knows the optimizer's class.

    Args:
        options: what the user has asked for.
    """

    def __init__(self, options: StepOptions) -> None:
        self.options, self.training, self.slots = options, TrainingState(), SlotStore()
        self._start_empty()

    def _start_empty(self) -> None:
        self.state_check = StateCheck(self.training, self.slots)
        self.slabs: dict[tuple[int, ...], Slab] = {}
        """The gradients of every list of variables that was stepped, by the variables' ids."""
        self._slabs_with_slots: set[Slab] = set()
        self.plans: dict[tuple[Slab, Communicator | None], Plan] = {}
        """What is prepared for each list among some replicas, once they have agreed on it."""
        self._synchronised: dict[Communicator, set[Variable]] = {}
        self._numbers: dict[Communicator, int] = {}
        self.builds_share_values = True
        """Whether making state for variables also makes replicas start from replica 0's values of them."""

    def known_slab(self, variables: Sequence[Variable]) -> Slab | None:
        """Return the memory for the gradients of these variables, if it has been made."""
        return self.slabs.get(tuple(map(id, variables)))

    def new_slab(self, variables: Sequence[Variable], variants: Sequence[int]) -> Slab:
        """Place the variables, and make the memory for their gradients.

        Args:
            variables: the list of a step.
            variants: which variant of the optimizer's rule updates each of them.
        """
        strategy = get_strategy()
        place(variables, shareable=strategy.shares_parameters)
        shares = strategy.num_replicas_in_sync > 1
        slab = Slab(variables, strategy.replica_index if shares else None, variants)
        self.slabs[tuple(map(id, variables))] = slab
        return slab

    def has_slots(self, slab: Slab) -> bool:
        """Whether every variable of the list has its slots."""
        return slab in self._slabs_with_slots

    def note_slots(self, slab: Slab) -> None:
        """Note that every variable of the list has its slots."""
        self._slabs_with_slots.add(slab)

    @property
    def stepped(self) -> list[Variable]:
        """The variables of every list that was stepped."""
        return list(dict.fromkeys(variable for slab in self.slabs.values() for variable in slab.variables))

    def forget_digests(self) -> None:
        """Describe every call again: the options have changed."""
        for plan in self.plans.values():
            plan.forget_digest()

    def forget(self, communicator: Communicator) -> None:
        """Drop what was agreed on and prepared with replicas that are no more together."""
        self._synchronised.pop(communicator, None)
        self._numbers.pop(communicator, None)
        for key in [key for key in self.plans if key[1] is communicator]:
            self.plans.pop(key).end_stream()

    def note_member(self, communicator: Communicator) -> None:
        """Number this optimizer among those that these replicas step together."""
        if communicator not in self._numbers:
            self._numbers[communicator] = communicator.number_optimizer()

    def told(self, identity: str, communicator: Communicator) -> str:
        """Return which optimizer this is, as all replicas know it: two of the same options are told apart."""
        number = self._numbers.get(communicator)
        return f"{identity}, " + ("not stepped yet" if number is None else f"number {number} to step")

    @contextmanager
    def values_shared_later(self) -> Iterator[None]:
        """Make state for variables without sharing their values: the step that needs it does so itself."""
        self.builds_share_values = False
        try:
            yield
        finally:
            self.builds_share_values = True

    def not_synchronised(self, communicator: Communicator, variables: Sequence[Variable]) -> list[Variable]:
        """Return the variables whose values these replicas have not made alike."""
        done = self._synchronised.get(communicator, set())
        return [variable for variable in variables if variable not in done]

    def note_synchronised(self, communicator: Communicator, variables: Sequence[Variable]) -> None:
        """Note that these replicas have made the values of these variables alike."""
        self._synchronised.setdefault(communicator, set()).update(variables)

    def __getstate__(self) -> dict[str, Any]:
        """Leave out memory and agreements: they are made anew."""
        return {"options": self.options, "training": self.training, "slots": self.slots}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._start_empty()
