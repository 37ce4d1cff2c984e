"""The methods of the legacy family that upstream calls and that users override: which a class of theirs has written."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from distopt.errors import InvalidArgumentError
from distopt.optimizers.common.base import BaseOptimizer
from distopt.optimizers.common.overrides import is_overridden
from distopt.variables.variable import Variable

BEFORE_SUM = ("apply_gradients", "_transform_unaggregated_gradients")
"""They see this replica's gradients on their way into a step."""
ON_SUM = ("_transform_gradients", "_clip_gradients")
"""They see the aggregate, as a list."""
UPDATES = (
    "_distributed_apply",
    "_resource_apply_dense",
    "_resource_apply_sparse",
    "_resource_apply_sparse_duplicate_indices",
)
"""They update variables in the place of a rule."""
MAKERS = ("_create_all_weights", "_create_hypers", "_prepare", "_prepare_local", "_create_slots_for_sharded_variables")
"""Upstream calls them after slots were made, or to make them: such a class gets its slots before hyperparameters."""
UNUSED = ("get_slot", "_resource_scatter_add", "_resource_scatter_update")
"""Upstream's built-in optimizers call them in an update, and the rules of distopt's do not."""
OTHERS = ("_aggregate_gradients", "iterations", "weights", "_restore_slot_variable")
NOTED_AT_FIRST = frozenset(("_aggregate_gradients", *ON_SUM))
"""The constructor looks for them: they can't be set on an optimizer later."""
CALLED = frozenset((*BEFORE_SUM[1:], *UPDATES, *MAKERS, *UNUSED, *NOTED_AT_FIRST, "_restore_slot_variable"))
"""A step looks for them; none is a property."""
HOOKS = (*BEFORE_SUM, *ON_SUM, *UPDATES, *MAKERS, *UNUSED, *OTHERS)


class Hooked(BaseOptimizer):
    """An optimizer that knows which of these methods are the user's; not for users.

    They are looked up when a class is made, so that a step of a built-in optimizer asks nothing.
    """

    _distopt_hooks: frozenset[str] = frozenset()
    """The methods of the user's that a step has to call."""
    _distopt_evaluates = False
    """True where methods of the user's compute numbers of a step."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls._distopt_hooks = frozenset(name for name in HOOKS if is_overridden(cls, name))
        cls._distopt_sees_own_gradients = BEFORE_SUM[1] in cls._distopt_hooks
        cls._distopt_evaluates = any(is_overridden(cls, name) for name in ("_prepare", "_prepare_local", "_scalars"))

    def _distopt_methods(self) -> str:
        return ", ".join(name for name in (*ON_SUM, *UPDATES) if name in self._distopt_hooks)

    def _distopt_refuse_streaming(self, variables: Sequence[Variable]) -> None:
        missed = [name for name in BEFORE_SUM if name in self._distopt_hooks]
        if missed:
            raise InvalidArgumentError(
                f"begin_step: {type(self).__name__} overrides {', '.join(missed)}, which a step whose gradients come "
                "one by one would not call: collect the gradients, and call apply_gradients with all of them"
            )
