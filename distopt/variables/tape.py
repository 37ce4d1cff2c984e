"""Gradients of NumPy code with respect to variables, by autograd's reverse mode."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np

from distopt.arrays import Array
from distopt.errors import InvalidArgumentError
from distopt.variables.array_like import stop_gradient
from distopt.variables.backward import backward, finish
from distopt.variables.indexed_slices import IndexedSlices
from distopt.variables.nests import UnconnectedGradients, flatten, like, matched, seed, shape_of_one, stacked
from distopt.variables.record import TapeNode
from distopt.variables.recording import Recording
from distopt.variables.tracing import node_of
from distopt.variables.variable import Variable

__all__ = ["GradientTape", "UnconnectedGradients", "stop_gradient"]

Gradient = Array | IndexedSlices
Ends = list[tuple[TapeNode, Any]]


class GradientTape(Recording):
    """Records the computations of NumPy from variables, then gives their gradients.

    Inside of the ``with`` block a variable is read as a traced value; plain ``np.`` functions of traced values
    are recorded. An operation without a derivative raises ``UntraceableError`` where it is called. Once the block has
    ended, such operations and collectives take the plain values. Tapes nest:
    gradients computed under an open tape are recorded there, which gives derivatives of higher order; so are those that
    a persistent tape computes inside of its own block.
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
        super().__init__(persistent, watch_accessed_variables)
        self._spent = False
        self._given: weakref.WeakValueDictionary[int, Array] = weakref.WeakValueDictionary()

    def gradient(
        self,
        target: Any,
        sources: Any,
        output_gradients: Any = None,
        unconnected_gradients: Any = UnconnectedGradients.NONE,
    ) -> Any:
        """Differentiate ``target``: ``Σ_i output_gradients[i] · ∂target[i]/∂source`` for each source.

        Inside of the block a persistent tape records this computation too. Another tape ends its record there.

        Args:
            target: traced value of any shape, whose elements are summed, or a list of them, summed too.
            sources: a Variable or a traced value, or nested lists, tuples and dicts of them.
            output_gradients: factors of the elements of ``target``, in the same structure and shapes; ones by
                default. Not mutated.
            unconnected_gradients: "none" or "zero", the answer for a source on which ``target`` does not depend.

        Returns:
            In the structure of ``sources``, for each source a new array of the source's shape and dtype,
            IndexedSlices if a variable was only indexed by integers on its first axis, or None (or zeros) if
            ``target`` does not depend on the source.

        Raises:
            RuntimeError: a second call on a tape that is not persistent, or the tape was never opened.
            InvalidArgumentError: a source that the tape could not follow, a variable that was written after
                the tape had read it, output gradients of other shapes, or a target that is a gradient which this
                tape has computed outside of its block.
            UntraceableError: an operation has no derivative, or no second one.

        Example:
            >>> table = Variable([[1.0], [2.0], [3.0]])
            >>> with GradientTape() as tape:
            ...     loss = table[[2, 0, 2]].sum()
            >>> tape.gradient(loss, table).indices
            array([2, 0, 2])
        """
        absent = UnconnectedGradients.of(unconnected_gradients)
        self._refuse_spent()
        entering = self._entering(target, output_gradients)
        flat = list(flatten(sources))
        nodes = [self._source_node(source) for source in flat]
        found = self._pull_back(entering, flat, nodes, release=self._spend())
        if self._persistent and not self._is_open:
            self._given.update({id(each): each for each in found if type(each) is np.ndarray})
        return like(sources, map(absent.stand_in, found, flat))

    def jacobian(
        self,
        target: Any,
        sources: Any,
        unconnected_gradients: Any = UnconnectedGradients.NONE,
        parallel_iterations: int | None = None,
        experimental_use_pfor: bool = True,
    ) -> Any:
        """Differentiate every element of ``target`` on its own: ``∂target[i]/∂source[j]``.

        Args:
            target: a traced value of any shape.
            sources: as for ``gradient``.
            unconnected_gradients: as for ``gradient``.
            parallel_iterations: ignored; it exists for code that was written for TensorFlow.
            experimental_use_pfor: ignored.

        Returns:
            In the structure of ``sources``, for each source a dense array of shape ``target.shape + source.shape``; or
            None (or zeros) if ``target`` does not depend on the source.

        Raises:
            RuntimeError: as for ``gradient``.
            InvalidArgumentError: as for ``gradient``; several targets.

        Example:
            >>> w = Variable([1.0, 2.0])
            >>> with GradientTape() as tape:
            ...     y = w * w
            >>> tape.jacobian(y, w)
            array([[2., 0.],
                   [0., 4.]], dtype=float32)

        Source: tf.GradientTape.jacobian.
        """
        absent = UnconnectedGradients.of(unconnected_gradients)
        shape, flat = shape_of_one(target, "jacobian"), list(flatten(sources))
        size = math.prod(shape)
        columns = self._pull_back_each(target, flat, size, lambda i: np.eye(1, size, i).reshape(shape))
        stacks = [stacked(column, 0, (*shape, *source.shape)) for column, source in zip(columns, flat, strict=True)]
        return like(sources, (absent.stand_in(s, source, shape) for s, source in zip(stacks, flat, strict=True)))

    def batch_jacobian(
        self,
        target: Any,
        source: Any,
        unconnected_gradients: Any = UnconnectedGradients.NONE,
        parallel_iterations: int | None = None,
        experimental_use_pfor: bool = True,
    ) -> Any:
        """Differentiate each example's part of ``target`` with respect to its own part of ``source``.

        Args:
            target: a traced value of shape (examples, ...), where no example depends on another's source.
            source: a Variable or a traced value of shape (examples, ...).
            unconnected_gradients: ignored: the answer is zeros where ``target`` does not depend on ``source``.
            parallel_iterations: ignored; it exists for code that was written for TensorFlow.
            experimental_use_pfor: ignored.

        Returns:
            An array of shape ``target.shape + source.shape[1:]``.

        Raises:
            RuntimeError: as for ``gradient``.
            InvalidArgumentError: as for ``gradient``; shapes without a common first axis.

        Example:
            >>> w = Variable([[1.0, 2.0], [3.0, 4.0]])
            >>> with GradientTape() as tape:
            ...     y = w[:, :1] * w[:, 1:]
            >>> tape.batch_jacobian(y, w)[:, 0]
            array([[2., 1.],
                   [4., 3.]], dtype=float32)

        Source: tf.GradientTape.batch_jacobian.
        """
        UnconnectedGradients.of(unconnected_gradients)
        shape, inner = shape_of_one(target, "batch_jacobian"), shape_of_one(source, "batch_jacobian")
        if len(shape) < 2 or len(inner) < 2 or shape[0] != inner[0]:
            raise InvalidArgumentError(
                f"tape.batch_jacobian received a target of shape {shape} and a source of shape {inner}: both need a "
                "first axis, of the same length, for the examples, and another one. tape.jacobian takes all shapes."
            )
        width = math.prod(shape[1:])
        [column] = self._pull_back_each(
            target, [source], width, lambda i: np.broadcast_to(np.eye(1, width, i), (shape[0], width)).reshape(shape)
        )
        stack = stacked(column, 1, (*shape, *inner[1:]))
        return np.zeros((*shape, *inner[1:]), source.dtype) if stack is None else stack

    def _pull_back(
        self, entering: Ends, sources: list[Any], nodes: list[TapeNode | None], *, release: bool
    ) -> list[Any]:
        """Return the gradient of each source, from the gradients that enter at the targets."""
        wanted = {node for node in nodes if node is not None}
        followed = self._persistent and self._is_open
        found = backward(self._record, entering, wanted, followed=followed, release=release)
        taken = {id(entry) for _, entry in entering}
        pairs = zip(sources, nodes, strict=True)
        return [finish(source, *found.get(node, (None, [])), taken) for source, node in pairs]

    def _pull_back_each(
        self, target: Any, sources: list[Any], count: int, unit: Callable[[int], Array]
    ) -> list[list[Any]]:
        """Return for each source its dense gradients, as each of ``count`` unit vectors enters at the target."""
        self._refuse_spent()
        nodes = [self._source_node(source) for source in sources]
        columns: list[list[Any]] = [[] for _ in sources]
        release = self._spend()
        for i in range(count):
            found = self._pull_back(self._entering(target, unit(i)), sources, nodes, release=release and i == count - 1)
            for column, part in zip(columns, found, strict=True):
                column.append(part.to_dense() if isinstance(part, IndexedSlices) else part)
        return columns

    def _refuse_spent(self) -> None:
        if not self._was_opened:
            raise RuntimeError("This tape was never opened and recorded nothing. Compute inside of `with tape:`.")
        if self._spent:
            raise RuntimeError(
                "tape.gradient was called a second time, and the record is gone after the first. "
                "Ask for all sources in one call, or make the tape with GradientTape(persistent=True)."
            )

    def _spend(self) -> bool:
        """Note that gradients are asked for; return whether that was the last time, which also ends the recording."""
        self._spent = not self._persistent
        if self._spent and self._is_open:
            self._replica.tapes.remove(self)
        return self._spent

    def _entering(self, target: Any, output_gradients: Any) -> Ends:
        """Return the nodes of those targets that depend on a watched value, and the gradient that enters at each."""
        ends: Ends = []
        for value, given in matched(target, output_gradients):
            if value is None or callable(value) or isinstance(value, IndexedSlices):
                kind = None if value is None else f"a {type(value).__name__}"
                raise InvalidArgumentError(
                    f"The target of tape.gradient is {kind}, not a traced value. "
                    "Compute the loss inside of the tape's block and pass the result."
                )
            if self._given.get(id(value)) is value:
                raise InvalidArgumentError(
                    "The target of tape.gradient is a gradient that this tape has computed while it did not record: "
                    "it has no second derivative. Call tape.gradient inside of the persistent tape's block."
                )
            box = self._here(self._box(value, value.value) if isinstance(value, Variable) else value)
            if box is not None:
                ends.append((node_of(box), seed(box, given)))
        return ends

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
