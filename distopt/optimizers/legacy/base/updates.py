"""The updates of the legacy family: ``_resource_apply_dense`` and ``_resource_apply_sparse``, overridden or by rule."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from distopt.arrays import Array
from distopt.engine.state.family import RuleCall
from distopt.optimizers.common.rule_updates import (
    constrain,
    rounds,
    update_flat,
    update_one,
    update_rows,
    update_slots_and_rows,
)
from distopt.optimizers.legacy.base.hyperparameters import ApplyState
from distopt.optimizers.legacy.base.tunable import Tunable
from distopt.slabs.gradients import Gradients
from distopt.slabs.listing import DENSE, SPARSE
from distopt.variables.indexed_slices import IndexedSlices
from distopt.variables.variable import DEVICE, Variable


class Updates(Tunable):
    """The part of the legacy optimizer that updates variables; a subclass overrides the ``_resource_`` methods.

    An override is called per variable; dense gradients of a built-in optimizer are updated in one kernel call.
    """

    def _resource_apply_dense(self, grad: Array, var: Variable, apply_state: ApplyState | None = None) -> Any:
        """Update a variable by a dense gradient.

        Args:
            grad: the aggregated gradient, in the variable's shape and dtype.
            var: the variable.
            apply_state: the numbers that ``_prepare_local`` has evaluated, by (device, dtype).
        """
        update_one(var, grad, self._call_on(var, apply_state))

    def _resource_apply_sparse(
        self, grad: Array, var: Variable, indices: Array, apply_state: ApplyState | None = None
    ) -> Any:
        """Update a variable by a sparse gradient without repeated rows.

        Args:
            grad: the rows, of shape (n, ...).
            var: the variable.
            indices: int64 of shape (n,), the index of each row.
            apply_state: the numbers that ``_prepare_local`` has evaluated, by (device, dtype).
        """
        if self._rule() is None:
            raise NotImplementedError(_NO_SPARSE)
        slices, call = IndexedSlices(grad, indices, var.shape), self._call_on(var, apply_state)
        match self._known_rule().sparse:
            case "all":
                update_one(var, slices.to_dense(), call)
            case "slots":
                update_slots_and_rows(var, slices, call)
            case "rows":
                update_rows(var, slices, call)

    def _resource_apply_sparse_duplicate_indices(
        self, grad: Array, var: Variable, indices: Array, **kwargs: Any
    ) -> Any:
        """Update by a sparse gradient that may repeat rows: add these, then call ``_resource_apply_sparse``."""
        unique = IndexedSlices(grad, indices, var.shape).deduplicate()
        return self._resource_apply_sparse(unique.values, var, unique.indices, **kwargs)

    def _resource_scatter_add(self, x: Variable, i: Array, v: Array) -> Variable:
        """Add rows v to the rows i of x; repeated rows add up."""
        return x.assign_add(IndexedSlices(v, i, x.shape))

    def _call_on(self, var: Variable, apply_state: ApplyState | None) -> RuleCall:
        """Return the rule's call on a variable, with the numbers that were evaluated for its dtype."""
        local = (apply_state or {}).get((var.device, var.dtype))
        scalars = self._scalars(local or self._fallback_apply_state(var.device, var.dtype))
        return self._call(var.storage.allocated_buffer, scalars)

    def _slot_labels(self) -> tuple[str, ...]:
        """Return the names of the slots in the rule's order; by default the rule's own names."""
        rule = self._rule()
        return () if rule is None else rule.slots

    def _scalars(self, local: dict[str, Any]) -> Sequence[float]:
        """Return the values of the rule's scalars, from the numbers that ``_prepare_local`` evaluated for a dtype."""
        raise NotImplementedError

    def _overrides(self, method: str) -> bool:
        return overrides(type(self), method, Updates)

    def _state_for(self, method: str) -> dict[str, Any]:
        """Return ``apply_state`` as a keyword argument if a method takes it; other methods evaluate it themselves."""
        return {"apply_state": self._apply_state} if _takes_state(getattr(type(self), method)) else {}

    def _check_gradients(self, gradients: Gradients) -> None:
        slab, kinds = gradients.slab, gradients.kinds
        has_rule = self._rule() is not None
        if DENSE in kinds and not (has_rule or self._overrides("_resource_apply_dense")):
            raise NotImplementedError(f"{type(self).__name__} must override `_resource_apply_dense`")
        if SPARSE in kinds and not (has_rule or any(map(self._overrides, _SPARSE_METHODS))):
            raise NotImplementedError(_NO_SPARSE)
        for variable, kind in zip(slab.variables, kinds, strict=True):
            if kind == SPARSE:
                _refuse_constraint(variable)

    @property
    def _updates_flat(self) -> bool:
        return self._rule() is not None and not self._overrides("_resource_apply_dense")

    def _step_scalars(self, dtype: np.dtype[Any]) -> Sequence[float]:
        return self._scalars(self._apply_state[DEVICE, dtype])

    def _update(self, gradients: Gradients, *, dense_done: bool) -> None:
        variables, sparse, updates_flat = gradients.slab.variables, gradients.sparse, dense_done or self._updates_flat
        for entries in rounds(gradients) if gradients.listing.has_duplicates else (gradients.entries,):
            if updates_flat and not dense_done:
                dense = [k for k in entries if k not in sparse] if sparse else entries
                update_flat(gradients, dense, self._step_call)
            for k in entries:
                if k in sparse:
                    self._apply_rows(variables[k], sparse[k])
                    continue
                if not updates_flat:
                    state = self._state_for("_resource_apply_dense")
                    self._resource_apply_dense(gradients.slab.views[k], variables[k], **state)
                if variables[k].constraint is not None:
                    constrain(variables[k])

    def _apply_rows(self, variable: Variable, slices: IndexedSlices) -> None:
        _refuse_constraint(variable)
        # As upstream, the signature of _resource_apply_sparse decides for both methods.
        state = self._state_for("_resource_apply_sparse")
        if self._overrides("_resource_apply_sparse_duplicate_indices"):
            self._resource_apply_sparse_duplicate_indices(slices.values, variable, slices.indices, **state)
        else:  # not by that method: these slices know which rows came from which replica
            unique = slices.deduplicate()
            self._resource_apply_sparse(unique.values, variable, unique.indices, **state)


def overrides(cls: type, method: str, base: type) -> bool:
    """Return whether a class overrides a method of ``base``."""
    return getattr(cls, method) is not getattr(base, method)


@functools.cache
def _takes_state(method: Callable[..., Any]) -> bool:
    return "apply_state" in inspect.signature(method).parameters


def _refuse_constraint(variable: Variable) -> None:
    if variable.constraint is not None:
        raise RuntimeError(
            f"Cannot use a constraint function on a sparse variable: the gradient of {variable.name!r} is "
            "IndexedSlices, and the variable has a constraint. Pass gradient.to_dense(), or drop the constraint"
        )


_SPARSE_METHODS = ("_resource_apply_sparse", "_resource_apply_sparse_duplicate_indices")
_NO_SPARSE = "`_resource_apply_sparse` Must be implemented in subclasses."
