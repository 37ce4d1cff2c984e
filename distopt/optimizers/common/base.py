"""What both optimizer families are built on: hooks, slabs, what replicas must share, damage, copies.

A family (a "face") translates names, hyperparameters, slot order and errors. The step itself is in ``step.py``.
"""

from __future__ import annotations

import abc
import copy
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Self

from distopt.aggregators.aggregator import Aggregator
from distopt.aggregators.sum import Sum
from distopt.arguments import checked_hook, checked_transformers, hook_name
from distopt.arrays import Array
from distopt.distribute.agreement.communicator import Communicator
from distopt.distribute.agreement.header import digest
from distopt.distribute.ending import note_broken_step
from distopt.distribute.strategy import get_strategy
from distopt.engine.divergence import Sealed
from distopt.engine.state.accumulation import Accumulation
from distopt.engine.state.loss_scale import LossScale
from distopt.engine.state.slots import DType, RuleUpdates
from distopt.engine.streaming.streaming import Streaming
from distopt.engine.sweep.sharing import agree_on_state, complete_slots, leave_state
from distopt.errors import DamagedOptimizerError, ForeignVariableError, InvalidArgumentError
from distopt.kernels.spans import COMPUTE_DTYPE
from distopt.memory.arena import place
from distopt.process.replica import current_replica
from distopt.slabs.slab import Gradients, Pair, Slab
from distopt.transformers import Clipping
from distopt.variables.variable import Variable

Hook = Callable[[list[Pair]], Any]


class BaseOptimizer(Streaming, RuleUpdates, abc.ABC):
    """The common part of both families; not for users."""

    name: str
    _casts_gradients: bool
    """Whether a gradient of another dtype is cast to the variable's, or refused."""
    _is_copy = False
    _merges_rows: bool
    """Whether equal rows of sparse gradients are added before clipping, or after the transformers."""

    def __init__(self, aggregator: Hook | None, transformers: Sequence[Hook] | None, clipping: Clipping) -> None:
        self._aggregator = checked_hook("gradient_aggregator", aggregator)
        self._transformers = checked_transformers(transformers)
        self._clipping = clipping
        super().__init__()
        self._slabs: dict[tuple[int, ...], Slab] = {}
        self._synchronised: dict[Communicator, set[Variable]] = {}
        self._numbers: dict[Communicator, int] = {}
        self._aggregator_built = False
        self._sealed: list[Sealed] = []
        self._accumulation: Accumulation | None = None
        self._loss_scale: LossScale | None = None
        self._damage: str | None = None

    @property
    @abc.abstractmethod
    def _iterations(self) -> Variable:
        """The counter of steps, int64."""

    @abc.abstractmethod
    def _state(self) -> list[Variable]:
        """Everything but the parameters that must be equal on all replicas."""

    @abc.abstractmethod
    def _trained(self) -> Iterable[Variable]:
        """The variables that this optimizer keeps state for."""

    @abc.abstractmethod
    def _check_gradients(self, slab: Slab, kinds: bytearray) -> None:
        """Refuse, before anything is agreed on, what the update could not do (ABSENT, DENSE, SPARSE by entry)."""

    @abc.abstractmethod
    def _evaluate_hyperparameters(self, slab: Slab) -> dict[str, float]:
        """Evaluate them for this step; return what must agree between replicas."""

    @abc.abstractmethod
    def _create_state(self, gradients: Gradients) -> None:
        """Make the slots that the present variables lack."""

    @abc.abstractmethod
    def _update(self, gradients: Gradients, *, dense_done: bool = False) -> None:
        """Update the variables that take part, and apply their constraints.

        Args:
            gradients: what takes part.
            dense_done: the dense ones are updated already, by the rule.
        """

    @property
    @abc.abstractmethod
    def _updates_flat(self) -> bool:
        """Whether dense gradients are updated by the rule, whole buffers at a time."""

    @abc.abstractmethod
    def _step_scalars(self, dtype: DType) -> Sequence[float]:
        """The values of the rule's scalars in this step."""

    @property
    def _sums_flat(self) -> bool:
        """Whether gradients are summed in distopt's own way, and nothing else."""
        return self._aggregator is None or isinstance(self._aggregator, Sum)

    @property
    def _micro_steps(self) -> int:
        """How many calls make a step."""
        return 1 if self._accumulation is None else self._accumulation.steps

    def _begin_anew(self) -> None:
        """Give up the micro-steps since the last step: what lost replicas had added up is gone."""
        if self._accumulation is not None:
            self._iterations.storage.array -= self._iterations.storage.array % self._micro_steps
            self._accumulation.clear()

    def _parts(self) -> Sequence[BaseOptimizer]:
        """The optimizers that update and keep state: this one, or those inside it."""
        return [self]

    @property
    def _skips_nonfinite(self) -> bool:
        """Whether a step is left out, on all replicas, when the sum of its gradients is not finite."""
        return self._loss_scale is not None and self._loss_scale.is_dynamic

    @abc.abstractmethod
    def _missing(self, names: list[str], everything: bool) -> None:
        """Say that some variables have no gradient on any replica: a warning, or an error if none has."""

    def gradient_buffers(self, variables: Sequence[Variable]) -> list[Array]:
        """Return one writable array per variable, to compute gradients into: they are summed without a copy.

        They are this replica's slab, and what ``apply_gradients(zip(buffers, variables))`` works on with the same
        variables in the same order; they are yours again when it returns (what is in them then is not specified).

        Args:
            variables: the variables, in the order of the step.

        Returns:
            Arrays of the variables' shapes and dtypes.

        Example:
            >>> import distopt
            >>> w = distopt.Variable([1.0, 2.0])
            >>> sgd = distopt.optimizers.SGD(learning_rate=1.0)
            >>> (buffer,) = sgd.gradient_buffers([w])
            >>> buffer[:] = 0.5
            >>> _ = sgd.apply_gradients([(buffer, w)])
            >>> w.numpy()
            array([0.5, 1.5], dtype=float32)
        """
        return list(self._slab_for(variables).views)

    def _read_state(self, variables: Sequence[Variable]) -> list[Array]:
        """Return copies of the state, whole; where replicas share it, each has only its part up to date."""
        agree_on_state(self, "get_weights")
        complete_slots(self)
        return [variable.numpy() for variable in variables]

    def _write_state(self, variables: Sequence[Variable], values: Sequence[Any]) -> None:
        """Set the state; where replicas share it, all of them write the same."""
        agree_on_state(self, "set_weights", values)
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)
        leave_state(self)

    def _slab_for(self, variables: Sequence[Variable]) -> Slab:
        """The memory for the gradients of these variables; made, and the variables placed, at the first call."""
        key = tuple(map(id, variables))
        slab = self._slabs.get(key)
        if slab is None:
            for variable in variables:
                check_variable(variable)
            strategy = get_strategy()
            place(variables, shareable=strategy.shares_parameters)
            shares = strategy.num_replicas_in_sync > 1
            slab = self._slabs[key] = Slab(variables, strategy.replica_index if shares else None)
            slab.variants = list(map(self._variant_of, variables))
        return slab

    def _forget(self, communicator: Communicator) -> None:
        """Drop what was agreed on and prepared with replicas that are no more together."""
        self._give_up_step()
        self._synchronised.pop(communicator, None)
        self._numbers.pop(communicator, None)
        for slab in self._slabs.values():
            slab.forget(communicator)

    def _identity(self) -> str:
        """The options of the optimizer that all replicas must share."""
        rule = self._rule()
        parts = [type(self).__name__] if rule is None else [f"{type(self).__name__} ({rule.name})"]
        if self._aggregator is not None:
            parts.append(f"gradient_aggregator={hook_name(self._aggregator)}")
        if self._transformers:
            parts.append(f"gradient_transformers={list(map(hook_name, self._transformers))}")
        if self._skips_nonfinite and self._loss_scale is not None:
            parts.append(f"dynamic loss scale, growth after {self._loss_scale.growth_steps} steps")
        return ", ".join(parts)

    def _told(self, communicator: Communicator) -> str:
        """Which optimizer this is, as all replicas know it: two of the same options are told apart."""
        number = self._numbers.get(communicator)
        return f"{self._identity()}, " + ("not stepped yet" if number is None else f"number {number} to step")

    def _call_digest(self, slab: Slab, communicator: Communicator) -> int:
        known = slab.call_digests.get(communicator)
        if known is None:
            known = digest(f"{self._told(communicator)}|{slab.description}".encode())
            if communicator in slab.agreed:
                slab.call_digests[communicator] = known
        return known

    @property
    def _in_lockstep(self) -> bool:
        return bool(getattr(self._aggregator, "lockstep", True))

    def _build_aggregator(self, variables: Sequence[Variable]) -> None:
        if isinstance(self._aggregator, Aggregator) and not self._aggregator_built:
            self._aggregator.build(variables)
            self._aggregator_built = True

    def _clip_values(self) -> dict[str, float]:
        return {name: value for name, value in vars(self._clipping).items() if value is not None}

    def _refuse_if_unusable(self) -> None:
        if "_damage" not in self.__dict__:
            raise RuntimeError(f"{type(self).__name__}.__init__ did not call super().__init__(...): call it first")
        owner, replica = self._iterations._replica, current_replica()
        if owner is not replica:
            raise ForeignVariableError(
                f"optimizer {self.name!r} was made by {owner.name} and is used by {replica.name}; replicas share no "
                "optimizers. Make it inside the function given to simulate"
            )
        if self._damage is not None:
            raise DamagedOptimizerError(
                f"optimizer {self.name!r} failed in an earlier step after it had begun to write ({self._damage}): its "
                "variables can't be trusted. Restore the last checkpoint (Checkpointer.restore), or make both anew"
            )

    def _damaged_by(self, error: BaseException) -> None:
        """Note that a step failed after it had begun to write."""
        note_broken_step()
        self._damage = f"step {int(self._iterations.storage.array)}: {type(error).__name__}: {error}"

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the memory that is made anew; a collective where several nodes have each a part of the state."""
        if any(not node.is_whole_job for node in self._shared_slots.values()):
            agree_on_state(self, "copy")
            complete_slots(self)
        return (
            self.__dict__
            | {
                name: {}
                for name in ("_slabs", "_slot_flats", "_slot_segments", "_shared_slots", "_synchronised", "_numbers")
            }
            | {"_streamed": None, "_sealed": []}
        )

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        for (variable, label), slot in self._slot_table.items():
            self._place_slot(variable, label, slot)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Copy the state; the copy steps the same variables, or those of their copies that were made before it.

        ``copy.deepcopy((variables, optimizer))`` copies both, in this order; in the other one the copy does not know
        the variables' copies and refuses them. ``pickle`` keeps them together in any order.
        """
        known = [*self._trained(), *self._streamed_variables]
        kept = {id(variable): variable for variable in known if id(variable) not in memo}
        inner = memo | kept
        twin = memo[id(self)] = inner[id(self)] = type(self).__new__(type(self))
        twin.__setstate__(copy.deepcopy(self.__getstate__(), inner))
        twin._is_copy = True
        memo.update((key, value) for key, value in inner.items() if key not in kept)
        return twin


def check_variable(variable: Any) -> None:
    """Refuse what can't be trained.

    Raises:
        InvalidArgumentError: no Variable, or one of a dtype without kernels.
        ForeignVariableError: another replica's.
    """
    if not isinstance(variable, Variable):
        raise InvalidArgumentError(f"an optimizer received {variable!r} as a variable: expected a distopt.Variable")
    variable.check_owner()
    if variable.dtype not in COMPUTE_DTYPE:
        raise InvalidArgumentError(
            f"Invalid type {variable.dtype} of variable {variable.name!r}: optimizers train "
            f"{', '.join(dtype.name for dtype in COMPUTE_DTYPE)}. Leave it out of the list, or make it with one of them"
        )
