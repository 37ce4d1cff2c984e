"""The way of a gradient from autograd into the slab, and on to the other replicas.

Autograd is left as it is: it makes a fresh gradient. A hook copies the gradient into this replica's slab while it is in
the cache, and ``param.grad`` becomes the view of the slab. We also measured views that stay, to which autograd adds.
Such views must be zeroed and read. That costs more where gradients are large: with layers 784-2048-2048-10 and batch
16 a backward pass takes 1.10 times as long as without distopt's memory, and 1.01 times with our copies. It saves some
20 µs of hooks where gradients are small.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from distopt.adapters.torch.tensors import as_array, as_slices, as_tensor, check_parameter, torch, version_of
from distopt.arrays import Array
from distopt.distribute.agreement.header import telling_the_others
from distopt.distribute.strategy import get_strategy
from distopt.errors import InvalidArgumentError
from distopt.optimizers.common.base import BaseOptimizer
from distopt.variables.variable import Variable


class TrainedParameter:
    """One parameter: its Variable, its place in the slab, and what has become of its gradient.

    Args:
        name: as in ``named_parameters``.
        parameter: the tensor; its value is copied.

    Raises:
        InvalidArgumentError: the parameter can't be trained.
    """

    def __init__(self, name: str, parameter: Any) -> None:
        check_parameter(name, parameter)
        self.parameter = parameter
        self.variable = Variable(as_array(parameter), name=name)
        self.is_sent = False
        """True where the stream has the gradient of this step."""

    def install(self, buffer: Array) -> None:
        """Move the parameter into its variable's memory, and remember the buffer for its gradients."""
        self._buffer, self.view = buffer, as_tensor(buffer)
        self.parameter.data = as_tensor(self.variable.storage.array)
        self._address = self.parameter.data_ptr()
        self._version = version_of(self.view)
        self._seen = version_of(self.parameter)

    def note_update(self) -> None:
        """Let autograd refuse to differentiate an older graph with the new values."""
        torch.autograd.graph.increment_version(self.parameter)
        self._seen = version_of(self.parameter)

    def deliver(self, parameter: Any) -> None:
        """Copy a gradient that backward has just completed into the slab; a sparse one stays where it is."""
        gradient, view = parameter.grad, self.view
        if gradient is not view and gradient.layout is torch.strided:
            view.copy_(gradient.detach() if gradient.requires_grad else gradient)
            parameter.grad = view
        self._version = version_of(view)

    def gradient(self) -> Any:
        """Return the gradient as ``apply_gradients`` takes it.

        Raises:
            InvalidArgumentError: the parameter or the gradient was replaced or changed since the backward pass.
        """
        parameter, name = self.parameter, self.variable.name
        if parameter.data_ptr() != self._address:
            raise InvalidArgumentError(
                f"the memory of parameter {name!r} was replaced (param.data = ..., model.to(...), model.half()), and "
                "distopt would go on with the old one. Write in place (param.data.copy_(value), "
                "model.load_state_dict(...)), or make the optimizer after such a change"
            )
        if version_of(parameter) != self._seen:  # model.load_state_dict and the like: an assignment
            self.variable.storage.note_write()
            self._seen = version_of(parameter)
        gradient = parameter.grad
        if gradient is None:
            return None
        if gradient is not self.view:
            if gradient.layout is not torch.strided:
                return as_slices(gradient, name)
            self.deliver(parameter)  # the user's own
        elif version_of(gradient) != self._version and gradient.any():  # zeroing is no such change
            raise InvalidArgumentError(
                f"the gradient of {name!r} was changed in place between backward() and step(). There it is this "
                "replica's alone; DistributedDataParallel would show the average. Clip the sum with the optimizer's "
                "global_clipnorm=, clipnorm= or clipvalue=, change it in gradient_transformers=[...]; or assign a new "
                "tensor (param.grad = ...) to change this replica's on purpose"
            )
        return self._buffer


class Stream:
    """Sends gradients to the other replicas while the backward pass goes on.

    A step begins where the last one ends; the first begins where the optimizer is made. There all replicas make a call
    together anyway, so beginning a step can't be mixed up with other collectives that the user calls between two steps.

    Args:
        optimizer: the inner optimizer.
        trained: the parameters, in the order of the slab.
    """

    def __init__(self, optimizer: BaseOptimizer, trained: Sequence[TrainedParameter]) -> None:
        self._optimizer, self._trained = optimizer, trained
        self._communicator = get_strategy().communicator
        self._keeps_gradients = False

    @classmethod
    def begun(cls, optimizer: BaseOptimizer, trained: Sequence[TrainedParameter]) -> Stream | None:
        """Begin the first step (collective); return None where sending during backward gains nothing."""
        variables = [each.variable for each in trained]
        optimizer.begin_step(variables)
        stream = cls(optimizer, trained)
        if optimizer.sums_meanwhile:
            return stream
        optimizer.cancel_step()
        return None

    @contextmanager
    def keeping_gradients(self) -> Iterator[None]:
        """Keep gradients here, unsent, until the end of the block."""
        before, self._keeps_gradients = self._keeps_gradients, True
        try:
            yield
        finally:
            self._keeps_gradients = before

    def deliver(self, trained: TrainedParameter, parameter: Any) -> None:
        """Copy a gradient into the slab and send it.

        Raises:
            InvalidArgumentError: the gradient of this step was sent already.
        """
        if trained.is_sent:
            with telling_the_others(self._communicator):
                raise self._too_late(trained, "backward() was called a second time in this step")
        trained.deliver(parameter)
        if not self._keeps_gradients:
            self._begin_again()
            trained.is_sent = True
            self._optimizer.push(trained.variable, trained.gradient())

    def end(self, gradients: Sequence[Any], items: float | None) -> None:
        """Send the remaining gradients, end the step and begin the next."""
        self._begin_again()
        for trained, gradient in zip(self._trained, gradients, strict=True):
            if not trained.is_sent:
                self._optimizer.push(trained.variable, gradient)
            elif gradient is None:
                with telling_the_others(self._communicator):
                    raise self._too_late(trained, "zero_grad() was called between backward() and step()")
        for trained in self._trained:
            trained.is_sent = False
        self._optimizer.end_step(items)
        self._optimizer.begin_step()

    def _begin_again(self) -> None:
        """Begin a new step if the last one failed on all replicas and the user has caught the error."""
        if not self._optimizer.step_has_begun:
            self._optimizer.begin_step()

    def _too_late(self, trained: TrainedParameter, what: str) -> InvalidArgumentError:
        return InvalidArgumentError(
            f"{what}, and the gradient of {trained.variable.name!r} is with the other replicas already: gradients are "
            "sent while backward goes on. Put every backward pass of a step but the last, and one that may be thrown "
            "away, under 'with optimizer.no_sync():'"
        )
