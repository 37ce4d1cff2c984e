"""Gradients of NumPy code with respect to variables, by autograd's reverse mode."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import Any

import numpy as np
from autograd.tracer import isbox

from distopt.arrays import Array, is_floating, to_array
from distopt.errors import InvalidArgumentError
from distopt.process.replica import current_replica
from distopt.variables.array_like import Traced, stop_gradient
from distopt.variables.backward import backward, finish
from distopt.variables.indexed_slices import IndexedSlices
from distopt.variables.tracing import TapeNode, TracedArray, convert, inside_of, node_of, trace_numbers, trace_of
from distopt.variables.variable import Variable

__all__ = ["GradientTape", "compute_gradients", "stop_gradient"]

Gradient = Array | IndexedSlices


class GradientTape:
    """Records the computations of NumPy from variables, then gives their gradients.

    Inside of the ``with`` block a variable is read as a traced value; plain ``np.`` functions of traced values
    are recorded. An operation without a derivative raises ``UntraceableError`` where it is called. Once the block has
    ended, such operations and collectives take the plain values. Tapes nest:
    gradients computed under an open tape are recorded there, which gives derivatives of higher order.
    ``float(x)``, ``x.numpy()`` and ``x.item()`` give plain numbers, which the tape does not follow.

    Args:
        persistent: whether ``gradient`` may be called more than once; the record is then kept as long as the tape.
        watch_accessed_variables: whether trainable variables are watched as soon as they are read.

    Example:
        >>> import numpy as np
        >>> w = Variable([1.0, 2.0])
        >>> with GradientTape() as tape:
        ...     loss = np.sum(w**2)
        >>> f"{loss:.1f}", tape.gradient(loss, w)
        ('5.0', array([2., 4.], dtype=float32))

    Source: the interface of tf.GradientTape; reverse mode as in autograd (Maclaurin, Duvenaud, Adams, 2015).
    """

    def __init__(self, persistent: bool = False, watch_accessed_variables: bool = True) -> None:
        self._persistent = persistent
        self._watch_accessed = watch_accessed_variables
        self._roots: dict[Variable, TapeNode] = {}
        self._trace = -1
        self._spent = False

    def __enter__(self) -> GradientTape:
        if self._trace >= 0:
            raise RuntimeError("This tape was opened before, and a tape records one block. Make a new GradientTape.")
        self._trace = next(trace_numbers)
        self._replica = current_replica()
        self._replica.tapes.append(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._replica.tapes.remove(self)

    def watch(self, x: Any) -> Any:
        """Follow ``x`` from now on.

        Args:
            x: a Variable, trainable or not; a floating array or number; or a list or tuple of these.

        Returns:
            The value to use in place of ``x``: the variable itself, or for an array its traced value.

        Raises:
            RuntimeError: the tape is not open.
            InvalidArgumentError: an array of integers, which has no derivative.

        Example:
            >>> with GradientTape() as tape:
            ...     x = tape.watch(3.0)
            ...     y = x * x
            >>> float(tape.gradient(y, x))
            6.0
        """
        if self._trace < 0 or self not in self._replica.tapes:
            raise RuntimeError(
                "tape.watch outside of the tape's block. Call it inside of `with GradientTape() as tape:`."
            )
        if isinstance(x, (list, tuple)):
            return type(x)(map(self.watch, x))
        if isinstance(x, Variable):
            if x not in self._roots and is_floating(x.dtype):
                self._roots[x] = TapeNode.new_root(x, x)
            return x
        value: Any = x if isinstance(x, Traced) else to_array(x, "what tape.watch received")
        if trace_of(value) == self._trace:
            return value
        if not is_floating(value.dtype):
            raise InvalidArgumentError(
                f"tape.watch received an array of {value.dtype}, which has no derivative. Use x.astype('float32')."
            )
        return TracedArray(value, self._trace, TapeNode.new_root(value, None))

    def watched_variables(self) -> tuple[Variable, ...]:
        """Return the variables that this tape follows, in the order in which they were first read or watched."""
        return tuple(self._roots)

    def follow(self, variable: Variable, value: Any) -> Any:
        """Return ``value``, the variable's value as outer tapes see it; as a traced value if this tape watches."""
        if self._watch_accessed and variable.trainable:
            self.watch(variable)
        return self._box(variable, value)

    def _box(self, variable: Variable, value: Any) -> Any:
        root = self._roots.get(variable)
        return value if root is None else TracedArray(value, self._trace, root)

    def gradient(self, target: Any, sources: Any, output_gradients: Any = None) -> Any:
        """Differentiate ``target``: ``Σ_i output_gradients[i] · ∂target[i]/∂source`` for each source.

        Args:
            target: traced value of any shape, whose elements are summed, or a list of them, summed too.
            sources: a Variable or a traced value, or nested lists and tuples of them.
            output_gradients: factors of the elements of ``target``, in the same structure and shapes; ones by
                default. Not mutated.

        Returns:
            In the structure of ``sources``, for each source a new array of the source's shape and dtype,
            IndexedSlices if a variable was only indexed by integers on its first axis, or None if ``target`` does
            not depend on the source.

        Raises:
            RuntimeError: a second call on a tape that is not persistent, or the tape was never opened.
            InvalidArgumentError: a source that the tape could not follow, a variable that was written after
                the tape had read it, or output gradients of other shapes.
            UntraceableError: an operation has no derivative.

        Example:
            >>> table = Variable([[1.0], [2.0], [3.0]])
            >>> with GradientTape() as tape:
            ...     loss = table[[2, 0, 2]].sum()
            >>> tape.gradient(loss, table).indices
            array([2, 0, 2])
        """
        self._refuse_spent()
        ends, seeds = self._ends(target, output_gradients)
        flat = list(_flatten(sources))
        nodes = [self._source_node(source) for source in flat]
        self._spent = not self._persistent
        found = backward(ends, seeds, {node for node in nodes if node is not None}, self._spent)
        taken = {id(seed) for seed in seeds}
        pairs = zip(flat, nodes, strict=True)
        return _like(sources, (finish(source, *found.get(node, (None, [])), taken) for source, node in pairs))

    def _refuse_spent(self) -> None:
        if self._trace < 0:
            raise RuntimeError("This tape was never opened and recorded nothing. Compute inside of `with tape:`.")
        if self._spent:
            raise RuntimeError(
                "tape.gradient was called a second time, and the record is gone after the first. "
                "Ask for all sources in one call, or make the tape with GradientTape(persistent=True)."
            )

    def follows(self, value: Any) -> bool:
        """Return whether this tape records what is computed from ``value``, as long as the tape is open."""
        return isbox(value) and self._here(value) is not None

    def _here(self, value: Any) -> Any:
        """Return this tape's box in ``value``, inside of the boxes of inner tapes; None if there is none."""
        while trace_of(value) > self._trace:
            value = inside_of(value)
        return value if trace_of(value) == self._trace else None

    def _ends(self, target: Any, output_gradients: Any) -> tuple[list[TapeNode], list[Any]]:
        """Return the nodes of those targets that depend on a watched value, and the gradient that enters at each."""
        ends, seeds = [], []
        for value, seed in _matched(target, output_gradients):
            if callable(value) or isinstance(value, IndexedSlices):
                raise InvalidArgumentError(
                    f"The target of tape.gradient is a {type(value).__name__}, not a traced value. "
                    "Compute the loss inside of the tape's block and pass the result."
                )
            box = self._here(self._box(value, value.value) if isinstance(value, Variable) else value)
            if box is not None:
                ends.append(node_of(box))
                seeds.append(_seed(box, seed))
        return ends, seeds

    def _source_node(self, source: Any) -> TapeNode | None:
        if isinstance(source, Variable):
            return self._roots.get(source)
        box = self._here(source)
        if box is None:
            raise InvalidArgumentError(
                f"tape.gradient cannot differentiate with respect to this {type(source).__name__}, which the "
                "tape does not follow. Give variables, or say x = tape.watch(x) first and use that x."
            )
        return node_of(box)


def compute_gradients(
    loss: Any,
    var_list: Sequence[Any] | Callable[[], Sequence[Any]],
    grad_loss: Any = None,
    tape: GradientTape | None = None,
) -> list[tuple[Gradient | None, Any]]:
    """Return the gradients that ``minimize`` applies: the gradient of ``loss`` with respect to each of the variables.

    Args:
        loss: function without arguments that returns the loss, or a traced value together with its ``tape``.
        var_list: the variables, or a function that returns them and is called after the loss.
        grad_loss: factors of the loss, element by element, in the shape of the loss. Not mutated.
        tape: the tape that recorded ``loss``.

    Returns:
        Pairs of gradient (None if the loss does not depend on the variable) and variable.

    Raises:
        InvalidArgumentError: a loss that was computed already without its tape, or a variable of integers.

    Example:
        >>> v = Variable(2.0)
        >>> [(gradient, _)] = compute_gradients(lambda: 3 * v * v, [v])
        >>> float(gradient)
        12.0

    Source: OptimizerV2._compute_gradients of tf.keras; the errors are its own.
    """
    if not callable(loss) and tape is None:
        raise InvalidArgumentError(
            "`tape` is required when the loss was computed already: give the GradientTape that recorded it, "
            "as in minimize(loss, var_list, tape=tape), or pass the loss as a function."
        )
    tape = GradientTape() if tape is None else tape
    if callable(loss):
        with tape:
            if not callable(var_list):
                tape.watch([variable for variable in _flatten(var_list) if isinstance(variable, Variable)])
            loss = loss()
    variables = list(_flatten(var_list() if callable(var_list) else var_list))
    for variable in variables:
        if not isinstance(variable, Variable) and not isbox(variable):
            raise InvalidArgumentError(f"var_list holds {variable!r}: expected a list of distopt.Variable")
        if not is_floating(variable.dtype):
            raise InvalidArgumentError(
                f"Invalid type {variable.dtype} of variable {getattr(variable, 'name', variable)!r}: only "
                "floating types have gradients. Leave it out of var_list."
            )
    return list(zip(tape.gradient(loss, variables, grad_loss), variables, strict=True))


def _seed(box: Any, given: Any) -> Any:
    if given is None:
        return np.ones(box.shape, box.dtype)
    seed = given if isbox(given) else to_array(stop_gradient(given), "output_gradients")
    if seed.shape != box.shape:
        raise InvalidArgumentError(
            f"output_gradients (grad_loss) of shape {seed.shape} for a target of shape {box.shape}: each "
            "element of the target has one. Give the target's shape."
        )
    return convert(seed, box.dtype)


def _flatten(structure: Any) -> Iterable[Any]:
    if isinstance(structure, (list, tuple)):
        for item in structure:
            yield from _flatten(item)
    else:
        yield structure


def _matched(target: Any, given: Any) -> Iterable[tuple[Any, Any]]:
    """Yield each target with its output gradient, or with None."""
    if not isinstance(target, (list, tuple)):
        yield target, given
        return
    each = [None] * len(target) if given is None else given
    if not isinstance(each, (list, tuple)) or len(each) != len(target):
        raise InvalidArgumentError(
            f"tape.gradient received output_gradients that do not match the list of {len(target)} targets. "
            "Give a list with one for each."
        )
    for pair in zip(target, each, strict=True):
        yield from _matched(*pair)


def _like(structure: Any, items: Any) -> Any:
    if isinstance(structure, (list, tuple)):
        return type(structure)(_like(item, items) for item in structure)
    return next(items)
