"""PyTorch: a module's parameters live in distopt's memory, and its gradients are summed from there."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from distopt import optimizers
from distopt.adapters.torch.gradients import Stream, TrainedParameter
from distopt.adapters.torch.tensors import (
    as_array,
    as_tensor,
    copy_from_replica_0,
    distinct_parameters,
    torch,
    torch_counterpart,
)
from distopt.distribute.agreement.header import telling_the_others
from distopt.distribute.belonging import in_own_scope
from distopt.distribute.strategy import get_strategy
from distopt.errors import InvalidArgumentError
from distopt.optimizers import legacy
from distopt.optimizers.common.access import belonging_of, family_of
from distopt.settings import THREADS

__all__ = ["DistributedOptimizer", "broadcast_buffers"]


class DistributedOptimizer:
    """An optimizer of distopt for the parameters of a PyTorch module.

    One step: ``params ← step(params, Σ grads / Σ items)``, the sums over replicas, in the fixed order of distopt. For
    users of DistributedDataParallel: this takes the place of both the wrapper and the optimizer::

        optimizer = DistributedOptimizer(model.named_parameters(), distopt.optimizers.Adam(1e-3))
        loss.backward(); optimizer.step(); optimizer.zero_grad()

    **Gradients are summed; DistributedDataParallel averages.** A mean over the local batch would be R times too large.
    Either sum the loss over this replica's examples (``reduction="sum"``) and pass their number,
    ``optimizer.step(items=len(x))``, which is exact for uneven batches and for a replica without data; or divide the
    sum by the *global* batch size (``batch.global_size`` of ``distopt.data``).

    Making the optimizer is collective. Parameters move into distopt's memory (the Parameter objects stay), where they
    are trained without a copy. All replicas get the values of replica 0, also of frozen parameters (with
    ``Strategy(broadcast=False)`` each replica keeps its own). Frozen parameters (``requires_grad=False``) are not
    trained. With more than one replica PyTorch gets ``DISTOPT_THREADS`` threads (1), as BLAS does.

    A parameter that has a gradient on other replicas only counts as zero on this one. A parameter without a gradient on
    any replica is left alone, and a warning names it. All backward passes of a step but the last belong under
    ``no_sync``. After a step ``param.grad`` is None.

    ``model.state_dict()`` has the parameters, this optimizer's ``state_dict()`` the rest. Buffers, such as the running
    statistics of BatchNorm, are each replica's own until ``broadcast_buffers``. Clipping and learning rate schedules
    are arguments of the inner optimizer; ``clip_grad_norm_`` would clip each replica's part of the sum, and is refused.

    Args:
        named_parameters: ``model.named_parameters()``: contiguous CPU tensors in float16, bfloat16, float32 or float64.
        optimizer: one of ``distopt.optimizers`` or ``distopt.optimizers.legacy``, not used for anything else.

    Raises:
        InvalidArgumentError: parameters that can't be trained here; none to train; an optimizer of PyTorch.
        CollectiveMismatchError: replicas have other parameters (on every one of them).

    Example:
        >>> import distopt
        >>> model = torch.nn.Linear(2, 1, bias=False)
        >>> _ = torch.nn.init.ones_(model.weight)
        >>> optimizer = DistributedOptimizer(model.named_parameters(), distopt.optimizers.SGD(0.1))
        >>> x = torch.eye(2)
        >>> model(x).square().sum().backward()
        >>> optimizer.step(items=len(x))
        >>> model.weight.tolist()
        [[0.8999999761581421, 0.8999999761581421]]
    """

    def __init__(self, named_parameters: Iterable[tuple[str, Any]], optimizer: Any) -> None:
        self._distopt_belonging = belonging_of(optimizer)
        self._begin(named_parameters, optimizer)

    @in_own_scope
    def _begin(self, named_parameters: Iterable[tuple[str, Any]], optimizer: Any) -> None:
        strategy = get_strategy()
        with telling_the_others(strategy.ready()):
            self._optimizer = _checked_optimizer(optimizer)
            named = distinct_parameters(named_parameters)
            # Backward delivers about in this order: gradients that come together lie together.
            self._trained = [TrainedParameter(name, p) for name, p in reversed(named.items()) if p.requires_grad]
            if not self._trained:
                raise InvalidArgumentError(
                    f"none of the {len(named)} parameters requires a gradient: there is nothing to train"
                )
            self._variables = [trained.variable for trained in self._trained]
            buffers = self._optimizer.gradient_buffers(self._variables)
            for trained, buffer in zip(self._trained, buffers, strict=True):
                trained.install(buffer)
            if isinstance(self._optimizer, legacy.Optimizer):
                _ = self._optimizer.iterations  # made with the slots in the first step else, too late to be loaded
                family_of(self._optimizer).prepare(self._variables)
        self._parameters = [trained.parameter for trained in self._trained]
        self._frozen = {name: parameter for name, parameter in named.items() if not parameter.requires_grad}
        if strategy.broadcast:
            copy_from_replica_0("torch DistributedOptimizer", named.items())
        if strategy.num_replicas_in_sync > 1:
            torch.set_num_threads(THREADS.read())
        self._stream = Stream.begun(self._optimizer, self._trained)
        for trained in self._trained:
            hook = trained.deliver if self._stream is None else functools.partial(self._stream.deliver, trained)
            handle = trained.parameter.register_post_accumulate_grad_hook(hook)
            weakref.finalize(self, handle.remove).atexit = False

    @property
    def learning_rate(self) -> Any:
        """Return the inner optimizer's learning rate, which can be set."""
        return self._optimizer.learning_rate

    @learning_rate.setter
    def learning_rate(self, value: Any) -> None:
        self._optimizer.learning_rate = value

    @in_own_scope
    def step(self, closure: Callable[[], Any] | None = None, *, items: float | None = None) -> None:
        """Sum the gradients over replicas and update. Every replica calls it, also one without gradients.

        Args:
            closure: not supported.
            items: number of items of this replica's *summed* loss; the aggregate is divided by the sum over replicas.

        Raises:
            InvalidArgumentError: no gradient on any replica; a closure; parameters or gradients that were changed in a
                way that would be lost. The other replicas get a ReplicaFailedError.
            CollectiveMismatchError: replicas disagree on the call (on every replica).
        """
        with telling_the_others(get_strategy().ready()):
            if closure is not None:
                raise InvalidArgumentError(
                    "step(closure): closures are for optimizers that compute the loss several times a step, and "
                    "distopt has none: call loss.backward(), then step()"
                )
            self._refuse_thawed()
            gradients = [trained.gradient() for trained in self._trained]
        if self._stream is None:
            self._optimizer.apply_gradients(zip(gradients, self._variables, strict=True), items=items)
        else:
            self._stream.end(gradients, items)
        self.zero_grad()
        for trained in self._trained:
            trained.note_update()

    def _refuse_thawed(self) -> None:
        for name, parameter in self._frozen.items():
            if parameter.requires_grad:
                raise InvalidArgumentError(
                    f"parameter {name!r} was frozen (requires_grad=False) when the optimizer was made, which does not "
                    "train it: make another optimizer when other parameters are to be trained"
                )

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients, as ``step`` does at its end.

        Args:
            set_to_none: ignored; None is no worse than zero here.
        """
        for parameter in self._parameters:
            parameter.grad = None

    @contextmanager
    def no_sync(self) -> Iterator[None]:
        """Let backward passes in the block add to this replica's gradients without sending them (accumulation).

        Example:
            >>> import distopt
            >>> model = torch.nn.Linear(1, 1, bias=False)
            >>> _ = torch.nn.init.ones_(model.weight)
            >>> optimizer = DistributedOptimizer(model.named_parameters(), distopt.optimizers.SGD(0.5))
            >>> with optimizer.no_sync():
            ...     model(torch.ones(1, 1)).sum().backward()
            >>> model(torch.ones(1, 1)).sum().backward()
            >>> optimizer.step(items=2)
            >>> model.weight.item()
            0.5
        """
        if self._stream is None:  # nothing is sent before the step
            yield
        else:
            with self._stream.keeping_gradients():
                yield

    def state_dict(self) -> dict[str, Any]:
        """Return the inner optimizer's state, as ``torch.save`` takes it; with ``update="shared"`` a collective.

        The parameters themselves are in ``model.state_dict()``.
        """
        return {
            "optimizer": self._kind,
            "parameters": self._shapes,
            "weights": [as_tensor(weight) for weight in self._optimizer.get_weights()],
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Set the inner optimizer's state; with ``update="shared"`` a collective.

        Every replica loads the same, here and in ``model.load_state_dict(...)``, which writes into distopt's memory
        (with ``assign=True`` it would put other Parameter objects into the model, which nobody trains).

        Args:
            state_dict: what ``state_dict`` returned, with any number of replicas, in either mode; not changed.

        Raises:
            InvalidArgumentError: the state of another optimizer, or for other parameters; nothing has been changed.
        """
        if not {"optimizer", "parameters", "weights"} <= set(state_dict):
            raise InvalidArgumentError(
                f"load_state_dict received the keys {list(state_dict)}: expected what state_dict() of this class gives"
            )
        pairs: list[tuple[str, Any, Any]] = [("the optimizer", state_dict["optimizer"], self._kind)]
        theirs, ours = dict(state_dict["parameters"]), self._shapes
        for name in dict.fromkeys([*ours, *theirs]):
            pairs.append((f"the shape of {name!r}", theirs.get(name), ours.get(name)))
        for what, its, own in pairs:
            if its != own:
                raise InvalidArgumentError(
                    f"load_state_dict: {what} is {'missing' if its is None else its} in the state and "
                    f"{'missing' if own is None else own} here: make the model and the optimizer that were saved"
                )
        self._optimizer.set_weights([as_array(torch.as_tensor(weight)) for weight in state_dict["weights"]])

    @property
    def _kind(self) -> str:
        family = "legacy." if isinstance(self._optimizer, legacy.Optimizer) else ""
        return family + type(self._optimizer).__name__

    @property
    def _shapes(self) -> dict[str, list[int]]:
        return {variable.name: list(variable.shape) for variable in self._variables}


def broadcast_buffers(model: Any) -> None:
    """Give every replica replica 0's buffers, such as the running statistics of BatchNorm (collective).

    A step does not touch buffers: each replica's buffers follow its own examples. Call this function before evaluation
    and before saving, and where replicas begin with different buffers also after the optimizer is made.
    (DistributedDataParallel broadcasts buffers before every forward pass.)

    Args:
        model: an nn.Module; its buffers are overwritten.

    Raises:
        InvalidArgumentError: a buffer that is no dense CPU tensor.
        CollectiveMismatchError: the replicas' models have other buffers (on every one of them).

    Example:
        >>> broadcast_buffers(torch.nn.BatchNorm1d(3))
    """
    copy_from_replica_0("broadcast_buffers", model.named_buffers())


def _checked_optimizer(optimizer: Any) -> Any:
    """Return the argument, an optimizer of distopt.

    Raises:
        InvalidArgumentError: the argument is something else.
    """
    if isinstance(optimizer, (optimizers.Optimizer, legacy.Optimizer)):
        return optimizer
    classes = {name: getattr(optimizers, name) for name in optimizers.__all__ if name != "Optimizer"}
    known = [name for name, cls in classes.items() if isinstance(cls, type) and issubclass(cls, optimizers.Optimizer)]
    said = torch_counterpart(optimizer, known) or repr(optimizer)
    if isinstance(optimizer, type) and issubclass(optimizer, (optimizers.Optimizer, legacy.Optimizer)):
        said = f"the class {optimizer.__name__}: make one of it, as in {optimizer.__name__}(0.001)"
    raise InvalidArgumentError(
        f"DistributedOptimizer(named_parameters, optimizer) received {said}. Expected one of distopt.optimizers "
        f"({', '.join(known)}) or distopt.optimizers.legacy; schedules and clipping are its arguments, as in "
        "Adam(schedule, global_clipnorm=1.0)"
    )
