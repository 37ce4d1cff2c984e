"""JAX: a step of distopt takes a pytree of gradients and returns a pytree of parameters."""

from __future__ import annotations

from typing import Any

import numpy as np

from distopt import optimizers
from distopt.distribute.agreement.header import telling_the_others
from distopt.distribute.belonging import in_own_scope
from distopt.distribute.collectives import broadcast
from distopt.distribute.strategy import get_strategy
from distopt.errors import InvalidArgumentError, MissingExtraError
from distopt.kernels.spans import COMPUTE_DTYPE
from distopt.optimizers import legacy
from distopt.optimizers.common.access import belonging_of
from distopt.variables.variable import Variable

try:
    import jax
    import jax.numpy as jnp
except ImportError as error:
    raise MissingExtraError("jax", "jax", "distopt.adapters.jax") from error

__all__ = ["DistributedOptimizer"]


def __dir__() -> list[str]:
    return __all__


class DistributedOptimizer:
    """An optimizer of distopt over a pytree of JAX arrays.

    One step: ``params ← step(params, Σ grads / Σ items)``, the sums over replicas, in the fixed order of distopt. The
    function that computes the gradients may be compiled by ``jax.jit``. The step may not: it communicates and changes
    memory.

    No memory is shared with JAX, which takes every array for immutable. Parameters are copied in and out, so the arrays
    of earlier steps keep their values; gradients are not changed.

    Making the optimizer is collective: every replica makes one, and then has the parameters of replica 0 (with
    ``Strategy(broadcast=False)`` each replica keeps its own). Read ``params`` before the first gradient is computed.

    The step gives the same bits under every transport if the local gradients are the same. XLA computes gradients with
    one thread per core that it sees, and for large matrices the last bits depend on the number of threads: keep that
    number fixed.

    Args:
        params: a pytree of arrays (or numbers) in float16, bfloat16, float32 or float64; not changed. Each leaf goes
            through ``jnp.asarray``: without ``jax_enable_x64``, float64 of NumPy becomes float32. None is an empty part
            of the pytree, as everywhere in JAX.
        optimizer: one of ``distopt.optimizers`` or ``distopt.optimizers.legacy``, not used for anything else.

    Attributes:
        variables: one Variable per leaf, in the order of ``jax.tree.leaves``, named by its path, such as
            ``params['dense']['kernel']``.

    Raises:
        InvalidArgumentError: a leaf that can't be trained, or that ``jax.jit`` traces; no leaves; no distopt optimizer.
        CollectiveMismatchError: replicas have parameters of different shapes or dtypes (on every one of them).

    Example:
        >>> import distopt
        >>> optimizer = DistributedOptimizer({"w": jnp.ones(3), "b": 0.0}, distopt.optimizers.SGD(learning_rate=0.1))
        >>> x, y = jnp.eye(3), jnp.zeros(3)
        >>> summed_loss = jax.jit(lambda params: jnp.sum((x @ params["w"] + params["b"] - y) ** 2))
        >>> params = optimizer.params
        >>> for step in range(2):
        ...     params = optimizer.update(jax.grad(summed_loss)(params), items=len(x))
        >>> round(float(params["b"]), 3)
        -0.347
    """

    def __init__(self, params: Any, optimizer: Any) -> None:
        self._distopt_belonging = belonging_of(optimizer)
        self._begin(params, optimizer)

    @in_own_scope
    def _begin(self, params: Any, optimizer: Any) -> None:
        strategy = get_strategy()
        with telling_the_others(strategy.ready()):
            self._optimizer = _checked_optimizer(optimizer)
            leaves, structure = jax.tree_util.tree_flatten_with_path(params)
            if not leaves:
                raise InvalidArgumentError(f"params is {params!r}, a pytree without leaves: there is nothing to train")
            self._structure: Any = structure
            self._paths = [jax.tree_util.keystr(path) for path, _ in leaves]
            self.variables = [_variable(leaf, f"params{jax.tree_util.keystr(path)}") for path, leaf in leaves]
        if strategy.broadcast:
            broadcast(self.variables)

    @property
    def params(self) -> Any:
        """Return the current parameters: a new pytree of new arrays at each reading; local."""
        # JAX may take over the memory that it is given instead of copying it: it is given memory that nobody else has.
        return jax.tree.unflatten(self._structure, jax.device_put([variable.numpy() for variable in self.variables]))

    @in_own_scope
    def update(self, grads: Any, *, items: float | None = None) -> Any:
        """Do one step: sum the gradients over replicas, clip, update. Every replica calls it.

        Gradients are summed, not averaged. Where the loss is a sum over this replica's examples, pass their number as
        ``items``: the result is exact for uneven batches and for replicas without data. Else divide the loss by the
        *global* batch size (``batch.global_size`` of ``distopt.data``).

        Args:
            grads: the result of ``jax.grad`` for ``params``: the same structure, shapes and dtypes; not changed.
            items: number of items of this replica's *summed* loss; the aggregate is divided by the sum over replicas.

        Returns:
            The new parameters, as ``params``: the same bits on every replica.

        Raises:
            InvalidArgumentError: gradients of another structure, shape or dtype; called under ``jax.jit``. The other
                replicas get a ReplicaFailedError.
            CollectiveMismatchError: replicas disagree on the call (on every replica).
        """
        with telling_the_others(get_strategy().ready()):
            leaves = self._leaves(grads)
        self._optimizer.apply_gradients(zip(leaves, self.variables, strict=True), items=items)
        return self.params

    def _leaves(self, grads: Any) -> list[Any]:
        """Return the gradients in the order of the variables, each of its variable's shape and dtype."""
        leaves, structure = jax.tree.flatten(grads)
        if structure != self._structure:
            raise self._wrong_structure(grads, structure)
        for leaf, path, variable in zip(leaves, self._paths, self.variables, strict=True):
            _refuse_traced(leaf, f"grads{path}", "update")
            if (getattr(leaf, "shape", None), getattr(leaf, "dtype", None)) != (variable.shape, variable.dtype):
                raise InvalidArgumentError(
                    f"grads{path} is {_kind(leaf)} and {variable.name} {_kind(variable)}: they must be equal. Pass "
                    "what jax.grad gives for optimizer.params; grad.astype(param.dtype) changes a dtype"
                )
        return list(leaves)

    def _wrong_structure(self, grads: Any, structure: Any) -> InvalidArgumentError:
        leaves, _ = jax.tree_util.tree_flatten_with_path(grads, is_leaf=lambda leaf: leaf is None)
        absent = {jax.tree_util.keystr(path) for path, leaf in leaves if leaf is None}
        for path in self._paths:
            if path in absent:
                return InvalidArgumentError(
                    f"grads{path} is None: every parameter needs a gradient. Pass jnp.zeros_like(param) where it has "
                    "none, or keep what is not trained out of params"
                )
        return InvalidArgumentError(
            f"update received gradients of the structure {structure}, and the parameters' is {self._structure}: pass "
            "what jax.grad gives for optimizer.params (jax.value_and_grad gives the pair (loss, gradients))"
        )


def _variable(leaf: Any, name: str) -> Variable:
    """Return a Variable with the value of a leaf.

    Raises:
        InvalidArgumentError: the leaf can't be trained.
    """
    _refuse_traced(leaf, name, "DistributedOptimizer")
    try:
        array = jnp.asarray(leaf)
    except (TypeError, ValueError):
        array = None
    if array is None or array.dtype not in COMPUTE_DTYPE:
        raise InvalidArgumentError(
            f"{name} is {_kind(leaf)}: optimizers train arrays of {', '.join(dtype.name for dtype in COMPUTE_DTYPE)}. "
            "Keep counters, random keys and functions in a pytree of their own"
        )
    return Variable(np.asarray(array), name=name)


def _refuse_traced(leaf: Any, name: str, call: str) -> None:
    if isinstance(leaf, jax.core.Tracer):
        raise InvalidArgumentError(
            f"{name} is traced: {call} was called inside of jax.jit, jax.grad or another transformation, which would "
            "run it once, without values, and it communicates and changes memory. Call it outside, and transform the "
            "function that computes the gradients: jax.jit(jax.grad(loss))"
        )


def _kind(x: Any) -> str:
    """Describe a value in a message: an array by its dtype and shape, anything else by its class."""
    return f"{x.dtype}{list(x.shape)}" if hasattr(x, "dtype") and hasattr(x, "shape") else type(x).__name__


def _checked_optimizer(optimizer: Any) -> optimizers.Optimizer | legacy.Optimizer:
    """Return the argument, an optimizer of distopt.

    Raises:
        InvalidArgumentError: the argument is something else.
    """
    if isinstance(optimizer, (optimizers.Optimizer, legacy.Optimizer)):
        return optimizer
    if isinstance(optimizer, type):
        said = f"the class {optimizer.__name__}: make one of it, as in {optimizer.__name__}()."
    elif hasattr(optimizer, "init") and hasattr(optimizer, "update"):
        said = (
            "a transformation of optax, which would update every replica from its own gradients alone. To keep it, sum "
            "them yourself (jax.tree.map(distopt.all_reduce, grads)) and leave this class out."
        )
    else:
        said = f"{optimizer!r}."
    raise InvalidArgumentError(
        f"DistributedOptimizer(optimizer=...) received {said} Expected one of distopt.optimizers "
        f"({_classes(optimizers)}) or distopt.optimizers.legacy ({_classes(legacy)}); schedules and clipping are their "
        "arguments, as in Adam(schedule, global_clipnorm=1.0)"
    )


def _classes(module: Any) -> str:
    classes = {name: getattr(module, name) for name in module.__all__ if isinstance(getattr(module, name), type)}
    return ", ".join(
        name for name, cls in classes.items() if issubclass(cls, module.Optimizer) and cls is not module.Optimizer
    )
