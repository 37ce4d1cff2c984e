"""Combines several optimizers, each for some of the variables."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from typing import Any, Self

from distopt.errors import InvalidArgumentError
from distopt.optimizers.by_name.serialization import deserialize, serialize
from distopt.optimizers.common.access import counter_of
from distopt.optimizers.keras3.composite import Composite
from distopt.optimizers.keras3.optimizer import Optimizer
from distopt.optimizers.keras3.patterns import compiled, warn_of_idle
from distopt.slabs.gradients import Gradients
from distopt.variables.variable import Variable


class OptimizerMap(MutableMapping[str, Optimizer]):
    """A map from the path of a variable to its optimizer.

    As a mapping it holds the patterns: ``in``, ``len``, iteration and ``values()`` leave out the default optimizer.

    Args:
        default_optimizer: the optimizer of all variables that no pattern fits.
        optimizer_map: an optimizer for each pattern: a path, or a regular expression that fits the whole path.

    Example:
        >>> import distopt
        >>> routes = OptimizerMap(distopt.optimizers.SGD(), {"encoder/.*": distopt.optimizers.Adam()})
        >>> type(routes(distopt.Variable([1.0], name="encoder/w"))).__name__
        'Adam'

    Source: Keras 3 ``keras.optimizers.OptimizerMap``.
    """

    def __init__(self, default_optimizer: Optimizer, optimizer_map: Mapping[str, Optimizer] | None = None) -> None:
        self.default_optimizer = default_optimizer
        self.optimizer_map: dict[str, Optimizer] = {}
        for pattern, optimizer in (optimizer_map or {}).items():
            self[pattern] = optimizer

    def __setitem__(self, pattern: str, optimizer: Optimizer) -> None:
        """Set the optimizer of a pattern."""
        if pattern in self.optimizer_map:
            raise InvalidArgumentError(f"OptimizerMap: {pattern!r} has an optimizer already")
        compiled("OptimizerMap", [pattern])
        self.optimizer_map[pattern] = optimizer

    def __getitem__(self, path: str) -> Optimizer:
        """Return the optimizer of a path."""
        if path in self.optimizer_map:
            return self.optimizer_map[path]
        fitting = [pattern for pattern in self.optimizer_map if _fits(pattern, path)]
        if len(fitting) > 1:
            raise InvalidArgumentError(f"OptimizerMap: the patterns {fitting} all fit {path!r}: make them exclusive")
        return self.optimizer_map[fitting[0]] if fitting else self.default_optimizer

    def __contains__(self, pattern: object) -> bool:
        """Return whether a pattern has an optimizer (Keras 3 answers True to everything)."""
        return pattern in self.optimizer_map

    def __delitem__(self, pattern: str) -> None:
        """Take away the optimizer of a pattern."""
        del self.optimizer_map[pattern]

    def __iter__(self) -> Iterator[str]:
        """Return the patterns, one after the other."""
        return iter(self.optimizer_map)

    def __len__(self) -> int:
        """Return the number of patterns."""
        return len(self.optimizer_map)

    def __call__(self, variable: Variable) -> Optimizer:
        """Return the optimizer of a variable."""
        return self[variable.path]


def _fits(pattern: str, path: str) -> bool:
    return pattern == path or re.fullmatch(pattern, path) is not None


class MultiOptimizer(Composite):
    """Several optimizers in one: each variable is updated by its own optimizer, and gradients are summed once for all.

    Clipping by a global norm is over the variables of one inner optimizer. Read and set the learning rate on an inner
    optimizer: ``optimizer.optimizers[0].learning_rate``.

    Args:
        optimizer_map: an ``OptimizerMap``, or a function from a variable to its optimizer (which must return the same
            object for all variables of one optimizer).
        loss_scale_factor: the factor of the loss; it replaces the factors of the inner optimizers.
        gradient_accumulation_steps: as in ``Optimizer``; inner optimizers do not accumulate on their own.
        name: the optimizer's name.
        **kwargs: ``gradient_aggregator`` and ``gradient_transformers``, as in ``Optimizer``.

    Raises:
        InvalidArgumentError: an object that can't be an inner optimizer; a path that several patterns fit.

    Example:
        >>> import distopt
        >>> from distopt.optimizers import SGD, Adam
        >>> w, bias = distopt.Variable([1.0], name="w"), distopt.Variable([1.0], name="bias")
        >>> optimizer = MultiOptimizer(OptimizerMap(Adam(0.5), {".*bias": SGD(0.25)}))
        >>> _ = optimizer.apply_gradients([([1.0], w), ([1.0], bias)])
        >>> w.numpy().round(4), bias.numpy()
        (array([0.5], dtype=float32), array([0.75], dtype=float32))

    Source: Keras 3 ``keras.optimizers.MultiOptimizer``.
    """

    def __init__(
        self,
        optimizer_map: OptimizerMap | Callable[[Variable], Optimizer],
        loss_scale_factor: float | None = None,
        name: str | None = None,
        gradient_accumulation_steps: int | None = None,
        **kwargs: Any,
    ) -> None:
        if not callable(optimizer_map):
            raise InvalidArgumentError(
                f"MultiOptimizer(optimizer_map={optimizer_map!r}): expected an OptimizerMap, or a function from a "
                "variable to its optimizer"
            )
        unknown = kwargs.keys() - {"gradient_aggregator", "gradient_transformers"}
        if unknown:
            raise InvalidArgumentError(f"MultiOptimizer: {sorted(unknown)} are arguments of the inner optimizers")
        super().__init__(
            0.0,
            loss_scale_factor=loss_scale_factor,
            gradient_accumulation_steps=gradient_accumulation_steps,
            name=name,
            **kwargs,
        )
        self._optimizer_map = optimizer_map
        self._distopt_inner: list[Optimizer] = []
        self._distopt_routes: dict[Variable, Optimizer] = {}
        if isinstance(optimizer_map, OptimizerMap):
            for inner in (*optimizer_map.values(), optimizer_map.default_optimizer):
                self._distopt_add(inner)

    def _distopt_add(self, inner: Optimizer) -> Optimizer:
        if not any(inner is other for other in self._distopt_inner):
            if getattr(inner, "gradient_accumulation_steps", None) is not None:
                raise InvalidArgumentError(
                    f"MultiOptimizer: the inner optimizer {inner.name!r} has gradient_accumulation_steps, and "
                    "gradients are summed once for all: give them to MultiOptimizer"
                )
            self._distopt_inner.append(self._distopt_usable_inner(inner))
        return inner

    def _distopt_inner_of(self, variable: Variable) -> Optimizer:
        if variable not in self._distopt_routes:
            self._distopt_routes[variable] = self._distopt_add(self._optimizer_map(variable))
        return self._distopt_routes[variable]

    @property
    def optimizers(self) -> Sequence[Optimizer]:
        """Return the inner optimizers."""
        return tuple(self._distopt_inner)

    @property
    def learning_rate(self) -> Any:
        """Raise an error: each inner optimizer has a learning rate of its own."""
        raise AttributeError("a MultiOptimizer has no learning rate: read and set it on each of its .optimizers")

    @learning_rate.setter
    def learning_rate(self, value: Any) -> None:
        raise AttributeError("a MultiOptimizer has no learning rate: read and set it on each of its .optimizers")

    def _distopt_make_all_slots(self) -> None:
        super()._distopt_make_all_slots()
        routes, paths = self._optimizer_map, [variable.path for variable in self._trainable_variables]
        patterns = routes.optimizer_map if isinstance(routes, OptimizerMap) else {}
        advice = "so their optimizers do nothing. A pattern fits the whole of a path (.*bias, not bias)"
        warn_of_idle(f"{self.name!r}, OptimizerMap", patterns, paths, _fits, advice)

    def _distopt_update(self, gradients: Gradients, *, dense_done: bool) -> None:
        super()._distopt_update(gradients, dense_done=dense_done)
        for inner in self._distopt_inner:
            counter_of(inner).storage.array += inner.built  # as in Keras, one without variables stays as it is

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that ``from_config`` needs.

        Raises:
            InvalidArgumentError: the optimizers come from a function.
        """
        routes = self._optimizer_map
        if not isinstance(routes, OptimizerMap):
            raise InvalidArgumentError(
                f"{self.name!r} gets its optimizers from a function, which can't be written: use an OptimizerMap"
            )
        return {
            "name": self.name,
            "loss_scale_factor": self.loss_scale_factor,
            "gradient_accumulation_steps": self.gradient_accumulation_steps,
            "optimizer_map": {
                "default_optimizer": serialize(routes.default_optimizer),
                "optimizer_map": {pattern: serialize(inner) for pattern, inner in routes.optimizer_map.items()},
            },
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None) -> Self:
        """Make an optimizer from what ``get_config`` returned (not changed)."""
        if "optimizer_map" not in config:
            raise InvalidArgumentError(f"MultiOptimizer wraps others: its config needs 'optimizer_map', got {config}")
        written = config["optimizer_map"]
        written = written.get("config", written)  # Keras writes it as an object
        default: Any = deserialize(written["default_optimizer"], custom_objects)
        inner: Any = {k: deserialize(v, custom_objects) for k, v in written["optimizer_map"].items()}
        return cls(**{**config, "optimizer_map": OptimizerMap(default, inner)})
