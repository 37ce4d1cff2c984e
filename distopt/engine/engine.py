"""The engine of one optimizer: options, training state, slots, gradients, plans."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from distopt.distribute.agreement.communicator import Communicator
from distopt.distribute.strategy import get_strategy
from distopt.engine.plan import Plan
from distopt.engine.state.divergence import StateCheck
from distopt.engine.state.options import StepOptions
from distopt.engine.state.slot_store import SlotStore
from distopt.engine.state.training_state import TrainingState
from distopt.memory.arena import allocate
from distopt.slabs.listing import Listing, find_listing, united
from distopt.slabs.slab import Slab
from distopt.variables.variable import Variable

_LISTINGS = 256
"""So many lists are remembered."""


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
        self.listings: dict[tuple[Communicator | int | None, ...], Listing] = {}
        """The lists of variables that are known, by the replicas that step them and the variables' ids."""
        self._slabs: dict[Communicator | None, Slab] = {}
        """The gradients of all variables that some replicas step together; None: of those nobody has agreed on."""
        self._agreed: dict[Variable, None] = {}
        self.plans: dict[tuple[Slab, Communicator | None], Plan] = {}
        """The plans for lists among some replicas, once they have agreed on their variables."""
        self._synchronised: dict[Communicator, set[Variable]] = {}
        self._numbers: dict[Communicator, int] = {}
        self.builds_share_values = True
        """True where making state for variables also makes replicas start from replica 0's values of them."""

    def find_listing(self, communicator: Communicator | None, variables: Sequence[Variable]) -> Listing | None:
        """Return a list as part of a slab that there is; None where there is none.

        Args:
            communicator: the replicas that step it: all must have agreed on the slab; None: this one alone.
            variables: the list; an empty one has no place.
        """
        if not variables:
            return None
        known = self.listings.get((communicator, *map(id, variables)))
        if known is not None:
            return known
        slabs = self._slabs.values() if communicator is None else filter(None, [self._slabs.get(communicator)])
        found = (find_listing(slab, variables) for slab in slabs)
        return self._remember(communicator, next((listing for listing in found if listing is not None), None))

    def new_listing(
        self,
        communicator: Communicator | None,
        variables: Sequence[Variable],
        variant_of: Callable[[Variable], int],
    ) -> Listing:
        """Place variables, and make memory for their gradients and those of all that are stepped with them.

        Where others must agree on the memory first, it is remembered when they have (``note_plan``).

        Args:
            communicator: the replicas that step the list, or None.
            variables: the list.
            variant_of: returns which variant of the optimizer's rule updates a variable.
        """
        known, waiting = self._slabs.get(communicator), self._slabs.get(None)
        together = united(variables, known.variables if known is not None and variables else ())
        is_there = waiting is not None and list(map(id, waiting.variables)) == list(map(id, together))
        slab = waiting if waiting is not None and is_there and _fits(waiting) else _new_slab(together, variant_of)
        listing = find_listing(slab, variables)
        assert listing is not None
        if communicator is None and variables:
            self._slabs[None] = slab
            self.listings.clear()
            self._remember(None, listing)
        return listing

    def _remember(self, communicator: Communicator | None, listing: Listing | None) -> Listing | None:
        if listing is not None:
            if len(self.listings) > _LISTINGS:
                self.listings.clear()
            self.listings[communicator, *map(id, listing.variables)] = listing
        return listing

    def note_plan(self, plan: Plan) -> None:
        """Keep what the replicas have agreed on; it takes the place of what was prepared for fewer variables."""
        slab, communicator = plan.slab, plan.communicator
        for key in [key for key in self.plans if key[1] is communicator]:
            self.plans.pop(key).end_stream()
        self.plans[slab, communicator] = plan
        self._slabs[communicator] = slab
        self._agreed.update(dict.fromkeys(slab.variables))
        waiting = self._slabs.get(None)
        if waiting is not None and find_listing(slab, waiting.variables) is not None:
            del self._slabs[None]
        self.listings.clear()

    @property
    def agreed(self) -> list[Variable]:
        """The variables that replicas have stepped together, in the order in which they agreed on them."""
        return list(self._agreed)

    @property
    def stepped(self) -> list[Variable]:
        """The variables of every list that was stepped."""
        waiting = self._slabs.get(None)
        return list(dict.fromkeys([*self._agreed, *(waiting.variables if waiting is not None else ())]))

    def note_changed_options(self) -> None:
        """Describe every call again, and see again whether all slots are there: an option has changed."""
        self.listings.clear()
        for plan in self.plans.values():
            plan.forget_digests()

    def forget(self, communicator: Communicator) -> None:
        """Drop what was agreed on and prepared with replicas that are no more together."""
        self._synchronised.pop(communicator, None)
        self._numbers.pop(communicator, None)
        for key in [key for key in self.plans if key[1] is communicator]:
            self.plans.pop(key).end_stream()
        slab = self._slabs.pop(communicator, None)
        if slab is not None:  # others may agree on it
            self._slabs.setdefault(None, slab)
        self.listings.clear()

    def note_member(self, communicator: Communicator) -> None:
        """Number this optimizer among those that these replicas step together."""
        if communicator not in self._numbers:
            self._numbers[communicator] = communicator.number_optimizer()

    def optimizer_description(self, identity: str, communicator: Communicator) -> str:
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


def _fits(slab: Slab) -> bool:
    """Return whether the current replicas can read each other's slab, where there are several."""
    return slab.segment is not None or get_strategy().num_replicas_in_sync == 1


def _new_slab(variables: Sequence[Variable], variant_of: Callable[[Variable], int]) -> Slab:
    strategy = get_strategy()
    allocate(variables, shareable=strategy.shares_parameters)
    shares = strategy.num_replicas_in_sync > 1
    return Slab(variables, strategy.replica_index if shares else None, list(map(variant_of, variables)))
