"""The weights of an optimizer of the legacy family: its counter, and the list of what ``get_weights`` returns."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import numpy as np

from distopt.arrays import Array, to_dtype
from distopt.engine.state.options import StepOptions
from distopt.errors import InvalidArgumentError
from distopt.optimizers.common.access import family_of
from distopt.optimizers.common.base import BaseOptimizer
from distopt.optimizers.common.initializers import first_value
from distopt.optimizers.legacy.base.hooks import Hooked
from distopt.process.names import unique_name
from distopt.variables.variable import Variable


class Weights(Hooked):
    """The weights in the order in which they are made; not for users.

    Args:
        name: a name; the names of state variables begin with it. None: the class's.
        options: the options that the user has given.
    """

    _distopt_may_lack_iterations: ClassVar[bool] = False
    """True where ``set_weights`` also takes a list of Keras 1, which did not begin with iterations."""

    _HAS_AGGREGATE_GRAD: bool = False
    _distribution_strategy: Any = None

    def __init__(self, name: str | None, options: StepOptions) -> None:
        super().__init__(options)
        self._name: str
        self._init_set_name(name)
        self._weights: list[Variable] = []
        self._distopt_counter: Variable | None = None
        self._distopt_added: list[Variable] = []
        self._distopt_tracked: dict[str, Any] = {}

    @property
    def name(self) -> str:  # type: ignore[override]
        """Return the optimizer's name."""
        return self._name

    def _init_set_name(self, name: str | None, zero_based: bool = True) -> None:
        """Set the name; without one it is the class's in snake case, with a number where it is not the first."""
        if name is not None and not isinstance(name, str):
            raise InvalidArgumentError(f"{type(self).__name__}(name={name!r}): expected a str")
        self._name = name or unique_name(
            re.sub(r"(?<=.)(?=[A-Z][a-z])|(?<=[a-z])(?=[A-Z])", "_", type(self).__name__).lower()
        )

    @property
    def iterations(self) -> Variable:
        """Return the number of steps done, an int64 Variable, which can be set before its first use."""
        if self._distopt_counter is None:
            with self._distribution_strategy_scope():
                self._iterations = self.add_weight("iter", (), "int64", trainable=False)
            self._weights.insert(0, self._iterations)
        assert self._distopt_counter is not None
        return self._distopt_counter

    @iterations.setter
    def iterations(self, variable: Variable) -> None:
        if self._distopt_counter is not None:
            raise RuntimeError(
                "Cannot set `iterations` to a new Variable after the optimizer's weights have been created; "
                "use optimizer.iterations.assign(n)"
            )
        self._iterations = variable
        self._weights.insert(0, variable)

    @property
    def _iterations(self) -> Variable:
        return self.iterations

    @_iterations.setter
    def _iterations(self, variable: Variable) -> None:
        """Count in a variable of somebody else's, such as that of the optimizer around this one."""
        if not isinstance(variable, Variable) or variable.shape != () or variable.dtype != np.int64:
            raise InvalidArgumentError(f"iterations = {variable!r}: expected Variable(np.int64(n))")
        self._distopt_counter = variable
        self._distopt_engine.training.count_with(variable)

    def add_weight(
        self,
        name: str,
        shape: Sequence[int],
        dtype: Any = None,
        initializer: Any = "zeros",
        trainable: bool | None = None,
        synchronization: Any = None,
        aggregation: Any = None,
    ) -> Variable:
        """Make a variable of this optimizer, called ``{optimizer}/{name}``, which replicas and checkpoints share.

        As upstream it is no part of ``weights``: append it to ``self._weights`` where ``get_weights`` shall have it.

        Args:
            name: its name.
            shape: its shape.
            dtype: its dtype; float32 by default.
            initializer: ``"zeros"``, ``"ones"``, a function of (shape, dtype) or its class, or the value itself.
            trainable: whether tapes watch it; True by default.
            synchronization: ignored: every replica has the same value.
            aggregation: ignored.
        """
        full, known = f"{self._name}/{name}", to_dtype("float32" if dtype is None else dtype)
        value = first_value(initializer, tuple(shape), known)
        weight = Variable(value, name=full, dtype=known, trainable=trainable is not False)
        self._distopt_added.append(weight)
        return weight

    def _track_trackable(self, trackable: Any, name: str, overwrite: bool = False) -> Any:
        """Let checkpoints have the state of a variable or of an optimizer; ``weights`` does not show it."""
        if self._distopt_tracked.get(name, trackable) is not trackable and not overwrite:
            raise InvalidArgumentError(f"{self._name!r} tracks another object as {name!r} already: pass overwrite=True")
        self._distopt_tracked[name] = trackable
        return trackable

    @contextmanager
    def _distribution_strategy_scope(self) -> Iterator[None]:
        """Return a context that does nothing: a variable belongs to the replica that makes it."""
        yield

    def _call_if_callable(self, param: Any) -> Any:
        """Return what a function without arguments returns, or the value that is none."""
        return param() if callable(param) else param

    @property
    def weights(self) -> list[Variable]:
        """Return the state in the order in which it was made: iterations, then slots; no hyperparameters."""
        return self._weights

    def variables(self) -> list[Variable]:
        """Return ``weights`` of this optimizer itself."""
        return self._weights

    def _distopt_state(self) -> list[Variable]:
        _, scale = self.iterations, self._distopt_engine.training.loss_scale
        held = [*self.weights, *self._distopt_added, *self._distopt_state_of_tracked()]
        return [*dict.fromkeys(held), *(() if scale is None else (scale.step_counter, scale.scale))]

    def _distopt_state_of_tracked(self) -> Iterable[Variable]:
        for each in self._distopt_tracked.values():
            if isinstance(each, Variable):
                yield each
            elif isinstance(each, BaseOptimizer):
                family = family_of(each)
                # Its counter may come to be this one's: none is made for it here.
                yield from each.weights if isinstance(each, Weights) else family.state()
                yield from (source for source in family.sources().values() if isinstance(source, Variable))

    def get_weights(self) -> list[Array]:
        """Return copies of the values of ``weights``; with ``update="shared"`` a collective."""
        return self._distopt_read_state(self.weights)

    def set_weights(self, weights: Sequence[Any]) -> None:
        """Set the values of ``weights``; with ``update="shared"`` a collective.

        Args:
            weights: one array per weight, in their order; not changed.

        Raises:
            InvalidArgumentError: another number of arrays, or other shapes.
        """
        held = self.weights
        if self._distopt_may_lack_iterations and len(weights) == len(held) - 1:
            weights = [np.int64(0), *weights]
        if len(weights) != len(held):
            raise InvalidArgumentError(
                f"You called `set_weights(weights)` on optimizer {self._name!r} with a weight list of length "
                f"{len(weights)}, but the optimizer was expecting {len(held)} weights. Slots are made in the "
                "first step; make one before (with zero gradients, say), or save after as many steps"
            )
        for weight, value in zip(held, weights, strict=True):
            if np.shape(value) != weight.shape:
                raise InvalidArgumentError(
                    f"Optimizer weight {weight.name!r} of shape {weight.shape} is not compatible with the provided "
                    f"weight of shape {np.shape(value)}"
                )
        self._distopt_write_state(held, weights)
