"""Finds all that a checkpoint must hold: the variables of a run and of its optimizer, by their names in the files.

``variables/NAME``            parameters, and further variables that were given
``slots/NAME/LABEL``          state of a parameter
``iterations``                the counter of steps
``hyperparameters/NAME``      hyperparameters that are variables
``optimizer/NAME``            other variables of the optimizer
``schedule/NAME``             variables of the schedule, where it has the attribute ``variables``
``aggregator/NAME``           variables of the aggregator: each replica's own
``accumulators/NAME``         gradients and items of micro-steps: each replica's own
``accumulators exist/NAME``   whether a micro-step has brought a gradient: each replica's own

A variable without a name of its own goes by its number in its list.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from distopt.arrays import Array
from distopt.checkpoint.files import DTYPES
from distopt.checkpoint.manifest import Described, Kind
from distopt.checkpoint.pieces import Piece, cut
from distopt.errors import InvalidArgumentError
from distopt.memory.flat_buffer import FlatBuffer
from distopt.optimizers.common.access import counter_of, engine_of, family_of, parts_of
from distopt.optimizers.common.base import BaseOptimizer
from distopt.optimizers.legacy import Optimizer as LegacyOptimizer
from distopt.variables.variable import Variable

_NUMBERED = re.compile(r"[Vv]ariable(_\d+)?")


@dataclass(frozen=True)
class CheckpointEntry:
    """A variable of a checkpoint.

    Args:
        variable: the variable.
        buffer: the memory that the replicas of the node share, if the variable lies in it; of a slot its parameter's.
        start: the position of the variable in ``buffer``.
    """

    variable: Variable
    buffer: FlatBuffer | None = None
    start: int = 0

    @property
    def described(self) -> Described:
        """Its shape and dtype."""
        return Described(self.variable.shape, self.variable.dtype.name)

    @property
    def bytes(self) -> Array:
        """Return the variable's memory as a uint8 array of shape (elements, bytes of one)."""
        return self.variable.storage.array.reshape(-1, 1).view(np.uint8)


@dataclass(frozen=True)
class Live:
    """The variables of a run, by their names in the checkpoint.

    Args:
        common: variables that are the same on all replicas.
        own: variables that each replica has for itself.
        trained: the names of the variables that the optimizer updates, in its order.
    """

    common: Mapping[str, CheckpointEntry]
    own: Mapping[str, CheckpointEntry]
    trained: Sequence[str]

    def pieces(self, replicas: int, index: int) -> list[tuple[Piece, CheckpointEntry]]:
        """Return the pieces that one replica writes: those that it owns in shared memory, and its part of the rest."""
        private = {
            k: (e.variable.size, e.variable.storage.array.itemsize) for k, e in self.common.items() if e.buffer is None
        }
        pieces = [(piece, self.common[piece.key]) for piece in cut(private, replicas, index)]
        for key, entry in self.common.items():
            if entry.buffer is not None:
                parts = entry.buffer.parts(entry.start, entry.variable.size)
                pieces += [(Piece(key, begin - entry.start, end - entry.start), entry) for begin, end in parts]
        own = {own_key(key, index): entry for key, entry in self.own.items()}
        pieces += [(Piece(key, 0, entry.variable.size), entry) for key, entry in own.items() if entry.variable.size]
        # The widest first: each begins at a multiple of its size in the file.
        return sorted(pieces, key=lambda item: -item[1].variable.storage.array.itemsize)

    def described(self, replicas: int) -> dict[str, Described]:
        """Return shape and dtype of all variables in the checkpoint."""
        own = {own_key(key, r): entry for r in range(replicas) for key, entry in self.own.items()}
        return {key: entry.described for key, entry in {**self.common, **own}.items()}


def own_key(key: str, replica: int) -> str:
    """Return the name in the checkpoint of a variable that one replica has for itself."""
    return f"replica {replica}/{key}"


def find(optimizer: BaseOptimizer | None, variables: Sequence[Variable]) -> Live:
    """Find everything that a checkpoint must hold.

    Raises:
        InvalidArgumentError: two variables have one name, a dtype can't be stored, or there are no parameters.
        ForeignVariableError: a variable belongs to another replica.
    """
    live = Live(_entries(_by_name(variables)), {}, []) if optimizer is None else _find(optimizer, variables)
    for key, entry in {**live.common, **live.own}.items():
        entry.variable.check_owner()
        if entry.variable.dtype.name not in DTYPES:
            raise InvalidArgumentError(f"{key!r} has dtype {entry.variable.dtype}, which checkpoints can't hold")
    return live


def _find(optimizer: BaseOptimizer, variables: Sequence[Variable]) -> Live:
    updated = _updated(optimizer)
    named = _by_name(dict.fromkeys([*variables, *updated]))
    if not named:
        raise InvalidArgumentError(
            f"the parameters of optimizer {optimizer.name!r} are not known before its first step: "
            "Checkpointer(directory, optimizer=optimizer, variables=[...])"
        )
    names = {variable: key.removeprefix("variables/") for key, variable in named.items()}
    engine = engine_of(optimizer)
    found = _entries(named) | {"iterations": CheckpointEntry(counter_of(optimizer))}
    for (variable, label), slot in _slots(optimizer).items():
        is_shared = (variable.storage.buffer, label) in engine.slots.shared
        entry = (
            CheckpointEntry(slot, variable.storage.buffer, variable.storage.start)
            if is_shared
            else CheckpointEntry(slot)
        )
        found[f"slots/{names[variable]}/{label}"] = entry
    found |= {f"hyperparameters/{name}": CheckpointEntry(each) for name, each in _hyperparameters(optimizer).items()}
    seen = {entry.variable for entry in found.values()}
    found |= _numbered("optimizer", (v for v in family_of(optimizer).state() if v not in seen), f"{optimizer.name}/")
    found |= _numbered("schedule", getattr(_schedule(optimizer), "variables", []))
    own = _numbered("aggregator", getattr(engine.options.aggregator, "variables", [])) | _accumulators(optimizer, names)
    return Live(found, own, [f"variables/{names[v]}" for v in updated])


def _accumulators(optimizer: BaseOptimizer, names: Mapping[Variable, str]) -> dict[str, CheckpointEntry]:
    accumulation = engine_of(optimizer).training.accumulation
    if accumulation is None:
        return {}
    sums = {f"accumulators/{names[variable]}": CheckpointEntry(each) for variable, each in accumulation.sums.items()}
    sums |= {
        f"accumulators exist/{names[variable]}": CheckpointEntry(each) for variable, each in accumulation.exist.items()
    }
    # With another number of micro-steps the counter means something else: nothing of this name is found then.
    return sums | {f"accumulators/items of {accumulation.steps} micro-steps": CheckpointEntry(accumulation.items)}


def _updated(optimizer: BaseOptimizer) -> list[Variable]:
    """Return the parameters that the optimizer has seen, in its order."""
    return list(dict.fromkeys([*family_of(optimizer).trained(), *engine_of(optimizer).stepped]))


def _slots(optimizer: BaseOptimizer) -> dict[tuple[Variable, str], Variable]:
    return {key: slot for part in parts_of(optimizer) for key, slot in family_of(part).slots().items()}


def _hyperparameters(optimizer: BaseOptimizer) -> dict[str, Variable]:
    if isinstance(optimizer, LegacyOptimizer):
        sources = family_of(optimizer).sources()
        return {name: value for name, value in sorted(sources.items()) if isinstance(value, Variable)}
    rates = [_schedule(part) for part in parts_of(optimizer)]
    names = ["learning_rate", *(f"learning_rate of optimizer {number}" for number in range(1, len(rates)))]
    return {name: rate for name, rate in zip(names, rates, strict=True) if isinstance(rate, Variable)}


def _schedule(optimizer: BaseOptimizer) -> Any:
    """Return the source of the learning rate: a schedule, a variable or a function."""
    return family_of(optimizer).sources().get("learning_rate")


def _entries(named: Mapping[str, Variable]) -> dict[str, CheckpointEntry]:
    entries = {}
    for key, variable in named.items():
        buffer = variable.storage.buffer
        is_shared = buffer is not None and buffer.shared_by is not None
        entries[key] = (
            CheckpointEntry(variable, buffer, variable.storage.start) if is_shared else CheckpointEntry(variable)
        )
    return entries


def _by_name(variables: Iterable[Variable]) -> dict[str, Variable]:
    named: dict[str, Variable] = {}
    for variable in variables:
        if not isinstance(variable, Variable):
            raise InvalidArgumentError(f"a checkpoint holds distopt.Variables, received {variable!r}")
        if named.setdefault(f"variables/{variable.name}", variable) is not variable:
            raise InvalidArgumentError(
                f"two variables are called {variable.name!r}: a checkpoint finds them by their names. Give each one of "
                "its own: distopt.Variable(..., name='...')"
            )
    return named


def _numbered(room: str, variables: Iterable[Variable], prefix: str = "") -> dict[str, CheckpointEntry]:
    named = {}
    for k, variable in enumerate(variables):
        name = variable.name.removeprefix(prefix)
        name = str(k) if _NUMBERED.fullmatch(name) or f"{room}/{name}" in named else name
        named[f"{room}/{name}"] = CheckpointEntry(variable)
    return named


def kind_of(optimizer: BaseOptimizer | None) -> Kind | None:
    """Return the class and the configuration of an optimizer, as the manifest names them."""
    if optimizer is None:
        return None
    inner = [part for part in parts_of(optimizer) if part is not optimizer]
    try:
        configuration = _as_json(optimizer.get_config())
    except Exception:  # a class of the user's own: it need not have a configuration
        configuration = {}
    return Kind([_class_of(each) for each in (optimizer, *inner)], configuration)


def differences_of(stored: Kind, here: Kind) -> list[str]:
    """Return a line for each argument that differs; what only one of them has, an earlier version did not know."""
    before, now = _flat(stored.configuration), _flat(here.configuration)
    return [f"{name} = {before[name]} in the checkpoint, {now[name]} here"
            for name in before if name in now and before[name] != now[name]]  # fmt: skip


def _class_of(optimizer: BaseOptimizer) -> str:
    return ("legacy." if isinstance(optimizer, LegacyOptimizer) else "") + type(optimizer).__name__


def _as_json(value: Any) -> Any:
    """Return a configuration without names, which say nothing, and with the class of what JSON can't hold."""
    if isinstance(value, dict):
        return {str(key): _as_json(item) for key, item in value.items() if key != "name"}
    if isinstance(value, (list, tuple)):
        return list(map(_as_json, value))
    value = value.item() if isinstance(value, np.generic) else value
    return value if isinstance(value, (bool, int, float, str, type(None))) else type(value).__name__


def _flat(configuration: Any, prefix: str = "") -> dict[str, str]:
    if not isinstance(configuration, dict):
        return {prefix: json.dumps(configuration)}
    return {
        name: text
        for key, item in configuration.items()
        for name, text in _flat(item, f"{prefix}.{key}" if prefix else key).items()
    }


def make_slots(optimizer: BaseOptimizer, variables: Sequence[Variable], *, has_own_variables: bool) -> None:
    """Make the slots that the optimizer would make in its first step over these variables, so they can be restored.

    This is local: a first step would also broadcast, but after a restore all replicas have the same values anyway.
    """
    if variables:
        family_of(optimizer).prepare(list(variables))
    if has_own_variables:
        engine_of(optimizer).options.build_aggregator(variables)
