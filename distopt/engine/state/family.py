"""The answers of an optimizer family to the engine."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from distopt.arrays import Array
from distopt.kernels import Rule
from distopt.memory.flat_buffer import FlatBuffer
from distopt.process.replica import Replica
from distopt.slabs.gradients import Gradients
from distopt.slabs.listing import Listing
from distopt.variables.variable import Variable

RuleCall: TypeAlias = "tuple[Rule, list[Array], Sequence[float]]"
"""A rule, the flat buffers of its slots, and its scalars: what a kernel takes beside parameters and gradients."""


class Update(Protocol):
    """The update of a family of the variables that take part."""

    def __call__(self, gradients: Gradients, *, dense_done: bool) -> None:
        """Update the variables, apply their constraints, and average weights.

        Args:
            gradients: the aggregated gradients that take part.
            dense_done: the dense ones are updated already, by the rule.
        """


class Missing(Protocol):
    """The message of a family on variables without gradients."""

    def __call__(self, names: list[str], *, everything: bool) -> None:
        """Say that variables have no gradient on any replica: a warning, or an error where none has."""


@dataclass(slots=True)
class Family:
    """An optimizer as the engine sees it: answers, and no class.

    The optimizer makes this from its own methods for each call; so the engine names no optimizer, and the names that
    a subclass of a user may override stay the optimizer's.
    """

    kind: str
    """The class's name, as messages show it."""
    name: str
    """The optimizer's name."""
    updates_flat: bool
    """True where the rule updates dense gradients, whole buffers at a time."""
    identity: Callable[[], str]
    """Describe the options that all replicas must share."""
    state: Callable[[], list[Variable]]
    """Return everything but the parameters that must be equal on all replicas."""
    slots: Callable[[], Mapping[tuple[Variable, str], Variable]]
    """Return the slots, by variable and label."""
    trained: Callable[[], Iterable[Variable]]
    """Return the variables that state is kept for."""
    check: Callable[[Gradients], None]
    """Refuse, before anything is agreed on, gradients that the update could not apply."""
    hyperparameters: Callable[[Listing], dict[str, float]]
    """Evaluate the hyperparameters of this step; return what must agree between replicas."""
    create_state: Callable[[Gradients], None]
    """Make the slots that the variables of this step lack."""
    variant_of: Callable[[Variable], int]
    """Return which variant of the rule updates a variable."""
    rule_call: Callable[[FlatBuffer, int], RuleCall]
    """Return the rule of the variables of one flat buffer and variant, with its scalars in this step."""
    prepare: Callable[[list[Variable]], None]
    """Make what the first step over these variables makes."""
    sources: Callable[[], dict[str, object]]
    """Return what hyperparameters come from, by name: variables, schedules, functions."""
    refuse_if_unusable: Callable[[Replica], None]
    """Refuse an optimizer that is not this replica's, or damaged."""
    update: Update
    missing: Missing
    methods: Callable[[], str]
    """Return the names of methods and options that need the whole sum, as a message shows them; or an empty text."""
