"""The updates of the legacy family: ``_resource_apply_dense`` and ``_resource_apply_sparse``, overridden or by rule."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from distopt.arrays import Array
from distopt.distribute.strategy import get_strategy
from distopt.engine.state.family import RuleCall
from distopt.optimizers.common.rule_updates import (
    constrain,
    rounds,
    update_flat,
    update_one,
    update_rows,
    update_slots_and_rows,
)
from distopt.optimizers.legacy.base.hooks import MAKERS, UNUSED, UPDATES
from distopt.optimizers.legacy.base.hyperparameters import ApplyState
from distopt.optimizers.legacy.base.tunable import Tunable
from distopt.slabs.fitting import Pair
from distopt.slabs.gradients import Gradients
from distopt.slabs.listing import DENSE, SPARSE
from distopt.variables.indexed_slices import IndexedSlices
from distopt.variables.values import value_of
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
        update_one(var, grad, self._distopt_call_on(var, apply_state))

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
        self._distopt_update_rows(grad, var, indices, apply_state)

    def _distopt_update_rows(self, grad: Array, var: Variable, indices: Array, apply_state: ApplyState | None) -> None:
        if self.update_rule() is None:
            raise NotImplementedError(_NO_SPARSE)
        slices, call = IndexedSlices(grad, indices, var.shape), self._distopt_call_on(var, apply_state)
        match self._distopt_known_rule().sparse:
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
        if self._distopt_only_adds_rows:
            self._distopt_update_rows(unique.values, var, unique.indices, kwargs.get("apply_state"))
            return None
        return self._resource_apply_sparse(unique.values, var, unique.indices, **kwargs)

    @property
    def _distopt_only_adds_rows(self) -> bool:
        """Return whether upstream adds rows as they come, and so never calls ``_resource_apply_sparse``."""
        return False

    def _resource_scatter_add(self, x: Variable, i: Array, v: Array) -> Variable:
        """Add rows v to the rows i of x; repeated rows add up."""
        return x.assign_add(IndexedSlices(v, i, x.shape))

    def _resource_scatter_update(self, x: Variable, i: Array, v: Array) -> Variable:
        """Put rows v in the place of the rows i of x."""
        value = x.numpy()
        value[np.asarray(i)] = v
        return x.assign(value)

    @property
    def _dense_apply_args(self) -> list[str]:
        """Return the names of the arguments of ``_resource_apply_dense``."""
        return _arguments(self._resource_apply_dense)

    @property
    def _sparse_apply_args(self) -> list[str]:
        """Return the names of the arguments of ``_resource_apply_sparse``."""
        return _arguments(self._resource_apply_sparse)

    def _distopt_call_on(self, var: Variable, apply_state: ApplyState | None) -> RuleCall:
        """Return the rule's call on a variable, with the numbers that were evaluated for its dtype."""
        scalars = self._distopt_scalars(apply_state or {}, var.device, var.dtype)
        return self._distopt_call(var.storage.allocated_buffer, scalars)

    def _distopt_scalars(self, state: ApplyState, device: str, dtype: Any) -> Sequence[float]:
        return self.rule_scalars(state.get((device, dtype)) or self._fallback_apply_state(device, dtype))

    def rule_scalars(self, local: dict[str, Any]) -> Sequence[float]:
        """Return the values of the rule's scalars in this step, in its order.

        Args:
            local: the numbers that ``_prepare_local`` has evaluated for a dtype; ``lr_t`` is the learning rate.
        """
        raise NotImplementedError

    def _distopt_check_gradients(self, gradients: Gradients) -> None:
        slab, kinds = gradients.slab, gradients.kinds
        has_rule, hooks = self.update_rule() is not None, self._distopt_hooks
        if DENSE in kinds and not has_rule and hooks.isdisjoint(UPDATES[:2]):
            raise NotImplementedError(f"{type(self).__name__} must override `_resource_apply_dense`")
        if SPARSE in kinds and not has_rule and hooks.isdisjoint((UPDATES[0], *_SPARSE_METHODS)):
            raise NotImplementedError(_NO_SPARSE)
        if hooks:
            self._distopt_check_hooks(gradients)
        for variable, kind in zip(slab.variables, kinds, strict=True):
            if kind == SPARSE:
                _refuse_constraint(variable)

    @property
    def _distopt_updates_flat(self) -> bool:
        return self.update_rule() is not None and self._distopt_hooks.isdisjoint(UPDATES[:2])

    def _distopt_step_scalars(self, dtype: np.dtype[Any]) -> Sequence[float]:
        state = self._distopt_apply_state
        return (
            self.rule_scalars(state[DEVICE, dtype])
            if not self._distopt_hooks
            else self._distopt_scalars(state, DEVICE, dtype)
        )

    def _distopt_check_hooks(self, gradients: Gradients) -> None:
        hooks = self._distopt_hooks
        if self.update_rule() is not None:
            dense_by_rule = DENSE in gradients.kinds and hooks.isdisjoint(UPDATES[:2])
            sparse_by_rule = SPARSE in gradients.kinds and hooks.isdisjoint((UPDATES[0], *_SPARSE_METHODS))
            unused = [
                name for name in UNUSED if name in hooks and (sparse_by_rule or (dense_by_rule and name == "get_slot"))
            ]
            if unused:
                raise NotImplementedError(
                    f"{type(self).__name__} overrides {unused[0]}, which its base calls upstream and not here, where a "
                    "rule updates: override `_resource_apply_dense` and `_resource_apply_sparse` too"
                )
        if not hooks.isdisjoint(MAKERS):
            self._distopt_create_early(gradients)

    def _distopt_update(self, gradients: Gradients, *, dense_done: bool) -> None:
        if "_distributed_apply" in self._distopt_hooks:
            self._distopt_update_by_user(gradients)
            return
        variables, sparse, updates_flat = (
            gradients.slab.variables,
            gradients.sparse,
            dense_done or self._distopt_updates_flat,
        )
        for entries in rounds(gradients) if gradients.listing.has_duplicates else (gradients.entries,):
            if updates_flat and not dense_done:
                dense = [k for k in entries if k not in sparse] if sparse else entries
                update_flat(gradients, dense, self._distopt_step_call)
            for k in entries:
                if k in sparse:
                    self._distopt_apply_rows(variables[k], sparse[k], self._distopt_apply_state)
                    continue
                if not updates_flat:
                    # In memory of its own: what the method keeps does not change later.
                    own = value_of(gradients.slab.views[k].copy())
                    self._distopt_apply_dense(variables[k], own, self._distopt_apply_state)
                if variables[k].constraint is not None:
                    constrain(variables[k])

    def _distributed_apply(self, distribution: Any, grads_and_vars: Iterable[Pair], apply_state: Any, name: Any) -> Any:
        """Update variables by aggregated gradients, and count; an override is called in the place of the updates.

        Args:
            distribution: the strategy; not read.
            grads_and_vars: the aggregated gradients.
            apply_state: what ``_prepare`` has returned.
            name: not read.
        """
        for gradient, variable in grads_and_vars:
            if isinstance(gradient, IndexedSlices):
                self._distopt_apply_rows(variable, gradient, apply_state)
            else:
                self._distopt_apply_dense(variable, gradient, apply_state)
                if variable.constraint is not None:
                    constrain(variable)
        return self.iterations.assign_add(1)

    def _distopt_update_by_user(self, gradients: Gradients) -> None:
        self._distributed_apply(
            get_strategy(), gradients.copied_pairs(), apply_state=self._distopt_apply_state, name=None
        )
        self.iterations.assign_sub(1)  # the step counts, too

    def _distopt_apply_dense(self, variable: Variable, gradient: Array, apply_state: Any) -> None:
        state = {"apply_state": apply_state} if "apply_state" in self._dense_apply_args else {}
        self._resource_apply_dense(gradient, variable, **state)

    def _distopt_apply_rows(self, variable: Variable, slices: IndexedSlices, apply_state: Any) -> None:
        _refuse_constraint(variable)
        # As upstream, the signature of _resource_apply_sparse decides for both methods.
        state = {"apply_state": apply_state} if "apply_state" in self._sparse_apply_args else {}
        if "_resource_apply_sparse_duplicate_indices" in self._distopt_hooks:
            self._resource_apply_sparse_duplicate_indices(
                _rounded(slices, variable).values, variable, slices.indices, **state
            )
        else:  # not by that method: these slices know which rows came from which replica
            unique = _rounded(slices.deduplicate(), variable)
            if self._distopt_only_adds_rows:
                self._distopt_update_rows(unique.values, variable, unique.indices, apply_state)
            else:
                self._resource_apply_sparse(unique.values, variable, unique.indices, **state)


def _arguments(method: Callable[..., Any]) -> list[str]:
    function = getattr(method, "__func__", method)
    return _arguments_of(function)


def _rounded(slices: IndexedSlices, variable: Variable) -> IndexedSlices:
    """Return rows in their variable's dtype: rows of 16 bits are float32 until equal ones are added."""
    with np.errstate(over="ignore"):  # as in the kernels
        return slices.astype(variable.dtype)


@functools.cache
def _arguments_of(function: Callable[..., Any]) -> list[str]:
    return inspect.getfullargspec(function).args


def _refuse_constraint(variable: Variable) -> None:
    if variable.constraint is not None:
        raise RuntimeError(
            f"Cannot use a constraint function on a sparse variable: the gradient of {variable.name!r} is "
            "IndexedSlices, and the variable has a constraint. Pass gradient.to_dense(), or drop the constraint"
        )


_SPARSE_METHODS = ("_resource_apply_sparse", "_resource_apply_sparse_duplicate_indices")
_NO_SPARSE = "`_resource_apply_sparse` Must be implemented in subclasses."
