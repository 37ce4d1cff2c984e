"""The gradients of the legacy family's ``minimize``: each part is a method that users override."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from distopt.arrays import is_floating, to_dtype
from distopt.errors import InvalidArgumentError
from distopt.slabs.fitting import Pair
from distopt.variables.minimizing import recorded_loss
from distopt.variables.nests import flatten
from distopt.variables.tape import GradientTape
from distopt.variables.variable import Variable

_TRAINED = frozenset(map(to_dtype, ("float16", "bfloat16", "float32", "float64", "complex64", "complex128")))


class Differentiation:
    """The part of a legacy optimizer that computes gradients, on this replica; not for users."""

    def _compute_gradients(
        self,
        loss: Any,
        var_list: Sequence[Variable] | Callable[[], Sequence[Variable]],
        grad_loss: Any = None,
        tape: Any = None,
    ) -> list[Pair]:
        """Return the (gradient, variable) pairs that ``minimize`` applies; a gradient may be None.

        Raises:
            InvalidArgumentError: a loss that was computed already without its tape; something else than variables.
        """
        tape, loss, variables = recorded_loss(loss, var_list, tape, self._transform_loss)
        pairs = list(self._get_gradients(tape, loss, variables, grad_loss))
        self._assert_valid_dtypes([v for gradient, v in pairs if gradient is not None or not is_floating(v.dtype)])
        return pairs

    def _transform_loss(self, loss: Any) -> Any:
        """Return the loss that is differentiated; override this method to change it."""
        return loss

    def _get_gradients(self, tape: Any, loss: Any, var_list: Sequence[Any], grad_loss: Any = None) -> list[Pair]:
        """Return the gradients of a loss with their variables; override this method to change them."""
        return list(zip(tape.gradient(loss, var_list, grad_loss), var_list, strict=True))

    def get_gradients(self, loss: Any, params: Any) -> list[Any]:
        """Return the gradients of a loss, a function without arguments, with respect to variables.

        Upstream this is for graphs, which distopt has not: a loss that was computed already has its ``GradientTape``.

        Raises:
            InvalidArgumentError: a loss that is no function; a variable that it does not depend on.
        """
        if not callable(loss):
            raise InvalidArgumentError(
                "get_gradients received a loss that was computed already, and there is no graph here that knows how: "
                "pass the loss as a function, or use tape.gradient(loss, variables) of the GradientTape"
            )
        with GradientTape() as tape:
            tape.watch(variables := list(flatten(params)))
            value = loss()
        gradients: list[Any] = list(tape.gradient(value, variables))
        for gradient, variable in zip(gradients, variables, strict=True):
            if gradient is None:
                raise InvalidArgumentError(
                    f"Variable {variable.name!r} has `None` for gradient: the loss does not depend on it, or an "
                    "operation between them has no derivative"
                )
        return gradients

    def _assert_valid_dtypes(self, tensors: Iterable[Any]) -> None:
        """Refuse variables of a dtype that is not among ``_valid_dtypes``."""
        valid = self._valid_dtypes()
        for tensor in tensors:
            if tensor.dtype not in valid:
                raise InvalidArgumentError(
                    f"Invalid type {tensor.dtype} of variable {getattr(tensor, 'name', tensor)!r}, expected: "
                    f"{sorted(map(str, valid))}. Leave it out of var_list"
                )

    def _valid_dtypes(self) -> Any:
        """Return the set of dtypes that may be trained; override this method to change it."""
        return _TRAINED
