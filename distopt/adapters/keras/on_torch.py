"""A Keras model's trained variables on the torch backend: they live in distopt's memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from distopt.adapters.torch.gradients import TrainedParameter
from distopt.adapters.torch.tensors import torch
from distopt.distribute.strategy import get_strategy
from distopt.errors import InvalidArgumentError
from distopt.optimizers import Optimizer
from distopt.settings import THREADS

LEAVES_GRADIENTS = False
"""True where a compiled step leaves its gradients to be used after it."""


class TrainedVariables:
    """The trained variables and their counterparts of distopt, over the same memory.

    Args:
        variables: the variables of Keras; ``attach`` replaces their memory.

    Raises:
        InvalidArgumentError: a variable can't be trained.
    """

    def __init__(self, variables: Sequence[Any]) -> None:
        for variable in variables:
            if variable.value.device.type != "cpu":
                raise InvalidArgumentError(
                    f"variable {variable.path!r} lies on {variable.value.device}: distopt trains on CPUs. Start "
                    "Python with KERAS_TORCH_DEVICE=cpu in its environment"
                )
            # Some of Keras' initialisers leave a transposed tensor behind; attach replaces its memory anyway.
            variable.value.data = variable.value.data.contiguous()
        self._trained = [TrainedParameter(variable.path, variable.value) for variable in variables]
        self.variables = [trained.variable for trained in self._trained]

    def attach(self, optimizer: Optimizer) -> None:
        """Move the variables into the memory of a built optimizer."""
        for trained, buffer in zip(self._trained, optimizer.gradient_buffers(self.variables), strict=True):
            trained.install(buffer)
        if get_strategy().num_replicas_in_sync > 1:
            torch.set_num_threads(THREADS.read())

    def read(self, gradients: Sequence[Any]) -> list[Any]:
        """Return gradients as ``apply_gradients`` takes them.

        Raises:
            InvalidArgumentError: gradients or variables were replaced, or changed in a way that would be lost.
        """
        for trained, gradient in zip(self._trained, gradients, strict=True):
            if trained.parameter.grad is not gradient:  # train_step made its own
                trained.parameter.grad = gradient
        return [trained.gradient() for trained in self._trained]

    def write(self) -> None:
        """Note that the variables have new values."""
        for trained in self._trained:
            trained.parameter.grad = None
            trained.note_update()


def are_traced(gradients: Sequence[Any]) -> bool:
    """Return False: on this backend gradients always have values."""
    return False


def uncompiled(function: Callable[..., None]) -> Callable[..., None]:
    """Return a function that ``torch.compile`` leaves as it is."""
    outside: Callable[..., None] = torch.compiler.disable(function)
    return outside
