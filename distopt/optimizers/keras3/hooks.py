"""The methods of an optimizer that Keras 3 calls, and that the user has written: found out once a class.

Methods before the sum see this replica's gradients, those behind it the aggregate. What distopt does not call is
refused by name when the optimizer is made.
"""

from __future__ import annotations

import functools
import inspect
from dataclasses import dataclass
from typing import Any

from distopt.optimizers.common.face import Face
from distopt.optimizers.common.overrides import is_overridden

BEFORE = ("apply", "_filter_empty_gradients", "_check_variables_are_known")
"""The methods that see this replica's gradients, beside ``apply_gradients`` and ``minimize``, which the user calls."""
CLIP = ("_clip_gradients", "_clip_by_norm")
DECAY = ("_apply_weight_decay", "_use_weight_decay")
UPDATE = ("update_step", "_backend_update_step")
BEHIND = (*CLIP, *DECAY, *UPDATE)
"""The methods that see the aggregate, as a whole."""
RATE = ("learning_rate", "_get_current_learning_rate")
OTHERS = ("apply_gradients", "_overwrite_variable_with_gradient", "variables", "add_variable", "aggregate_gradients")

NOT_CALLED = {
    "_backend_apply_gradients": "override what it calls: _clip_gradients, _apply_weight_decay, _backend_update_step",
    "_overwrite_variables_directly_with_gradients": "override _overwrite_variable_with_gradient, which says which",
    "_update_model_variables_moving_average": "use_ema=True averages; averages of your own belong into update_step",
    "_overwrite_model_variables_with_average_value": "override finalize_variable_values",
    "_backend_reset_gradient_accumulators": "micro-steps are added up before replicas communicate",
    "_backend_increment_gradient_accumulators": "micro-steps are added up before replicas communicate",
    "_all_reduce_sum_gradients": "give the optimizer a gradient_aggregator",
    "_distributed_tf_update_step": "override update_step or _backend_update_step",
}
"""The methods of every Keras 3 optimizer that distopt does not call, and what to do."""
NOT_CALLED_OF_FORMER = {
    "_update_step": "override update_step",
    "_update_step_xla": "override update_step",
    "_internal_apply_gradients": "override update_step, or apply_gradients",
    "_distributed_apply_gradients_fn": "override update_step, or apply_gradients",
    "_deduplicate_sparse_grad": "equal rows are added before update_step is called",
    "_compute_current_learning_rate": "override the property learning_rate",
    "_create_iteration_variable": "set _iterations to a Variable after super().__init__()",
    "_process_kwargs": "take the arguments in __init__",
    "_build_index_dict": "override _var_key, which tells variables apart",
}
"""Those of an optimizer of Keras 2.11 to 2.15."""


@dataclass(frozen=True)
class Hooks:
    """The methods of an optimizer that the user has written.

    Args:
        before: whether one sees this replica's gradients, so that a step has to go through ``apply``.
        filters: whether the user chooses the gradients that take part.
        behind: those that see the aggregate.
        clips: whether one of them limits gradients.
        decays: whether one of them decays weights.
        rate: whether the user computes the learning rate.
        streams: whether a step whose gradients come one by one calls all that a step calls.
        overwrites: whether the user says which variables are overwritten by their gradients.
        variables: whether the user says what the state is.
        makes: whether the user makes variables.
        aggregates: whether the user makes the sum.
        is_former: whether the optimizer was written for Keras 2.11 to 2.15: ``update_step`` has two arguments.
        refusal: why the optimizer can't be used, or None.
    """

    before: bool
    filters: bool
    behind: tuple[str, ...]
    clips: bool
    decays: bool
    rate: bool
    streams: bool
    overwrites: bool
    variables: bool
    makes: bool
    aggregates: bool
    is_former: bool
    refusal: str | None

    @property
    def updates(self) -> bool:
        """Return whether an update method is the user's."""
        return any(name in self.behind for name in UPDATE)

    @property
    def updates_together(self) -> bool:
        """Return whether the user updates all variables in one method."""
        return "_backend_update_step" in self.behind


NO_HOOKS = Hooks(
    before=False, filters=False, behind=(), clips=False, decays=False, rate=False, streams=True, overwrites=False,
    variables=False, makes=False, aggregates=False, is_former=False, refusal=None,
)  # fmt: skip
"""Nothing: before an optimizer is complete."""


@functools.lru_cache(maxsize=256)
def hooks_of(cls: Any, own: frozenset[str] = frozenset()) -> Hooks:
    """Return what the user has written.

    Args:
        cls: the optimizer's class.
        own: the names of what the user has set on the optimizer itself.
    """

    def has(*names: str) -> bool:
        return any(name in own or is_overridden(cls, name) for name in names)

    behind = tuple(name for name in BEHIND if has(name))
    is_former = _is_former(cls)
    return Hooks(
        before=has(*BEFORE),
        filters=has("_filter_empty_gradients"),
        behind=behind,
        clips=has(*CLIP),
        decays=has(*DECAY),
        rate=has(*RATE),
        streams=not has(*BEFORE, "apply_gradients"),
        overwrites=has("_overwrite_variable_with_gradient"),
        variables=has("variables"),
        makes=has("add_variable"),
        aggregates=is_former and has("aggregate_gradients"),
        is_former=is_former,
        refusal=_refusal(cls, own, is_former=is_former, updates=has(*UPDATE)),
    )


def may_be_hook(cls: Any, name: str) -> bool:
    """Return whether a name on an optimizer is that of something that its class calls, or refuses."""
    known = (*BEFORE, *BEHIND, *OTHERS, "_get_current_learning_rate", *NOT_CALLED, *cls._distopt_not_called)
    return name in known or name in cls._distopt_not_called_by_rule


def _is_former(cls: Any) -> bool:
    if not is_overridden(cls, "update_step"):
        return False
    try:
        parameters = inspect.signature(cls.update_step).parameters.values()
    except (TypeError, ValueError):  # made of something that Python can't look into
        return False
    return len(parameters) == 3 and all(each.kind is not each.VAR_POSITIONAL for each in parameters)


def _has_update(cls: Any) -> bool:
    """Return whether a class of distopt updates variables, by a rule or one by one."""
    return cls.update_rule is not Face.update_rule or hasattr(cls, "_distopt_move")


def _refusal(cls: Any, own: frozenset[str], *, is_former: bool, updates: bool) -> str | None:
    """Return why an optimizer of the user's can't be used, with the name of the method that would not be called."""
    advice = NOT_CALLED | (NOT_CALLED_OF_FORMER if is_former else {})
    if not updates:
        advice = advice | dict.fromkeys(cls._distopt_not_called, "override update_step, which would call it")
        if _has_update(cls):
            advice |= dict.fromkeys(
                cls._distopt_not_called_by_rule, "a rule updates here: override update_step as well"
            )
    for name, cure in advice.items():
        if name in own or is_overridden(cls, name):
            return f"{cls.__name__} overrides {name}, which distopt does not call, so it would have no effect: {cure}"
    return None
