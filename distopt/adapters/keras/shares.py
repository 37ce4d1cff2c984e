"""Global batches for ``fit``: each replica's share is weighted so that the mean over replicas is the batch's."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from distopt.adapters.keras.refusals import refuse_unfit_model
from distopt.adapters.keras.training import training
from distopt.data import batches
from distopt.distribute.collectives import num_replicas
from distopt.errors import InvalidArgumentError


class Shares(keras.utils.PyDataset):
    """Each replica's share of every global batch, as ``fit`` and ``evaluate`` take it.

    Keras differentiates the mean over the local batch, and ``DistributedOptimizer`` averages over replicas. A share of
    n examples of a global batch of N carries the sample weight ``R n / N``, R being the number of replicas. The weight
    is 1 where shares are equal; elsewhere it makes the average equal to one process on the joined batch. This holds for
    losses with Keras' default reduction (a mean over examples); with ``ReplicaCallback``, ``fit`` refuses reductions,
    masks and layers' own losses for which it would not. A replica that gets no share of a short last batch gets
    one example of weight 0. All replicas take the same number of steps.

    Every replica passes the same examples, which is checked at each epoch (a collective); the order of epoch k is the
    same for any number of replicas (``distopt.data.batches``). ``fit(shuffle=...)`` has no effect. Reported losses and
    metrics are those of the replica's share.

    Args:
        x: inputs: an array, or a structure of arrays, with examples on the first axis; the same on every replica; not
            mutated.
        y: targets: likewise.
        sample_weight: a weight for each example, or None; Keras allows no ``class_weight`` beside it.
        global_batch_size: examples per step, over all replicas; >= 1.
        seed: 0 to 2**64 - 1.
        shuffle: whether to draw a new order for each epoch; else the order is that of the arrays.

    Raises:
        InvalidArgumentError: an argument out of its range, no examples, or arrays of different lengths; while
            iterating, on every replica: replicas with different arguments.

    Example:
        >>> shares = Shares(np.arange(5.0), np.arange(5), global_batch_size=4, shuffle=False)
        >>> len(shares)
        2
        >>> shares[0]
        (array([0., 1., 2., 3.]), array([0, 1, 2, 3]), array([1., 1., 1., 1.], dtype=float32))
    """

    def __init__(
        self, x: Any, y: Any, sample_weight: Any = None, *, global_batch_size: int, seed: int = 0, shuffle: bool = True
    ) -> None:
        super().__init__()  # without workers: batches are asked for one by one, in the thread that trains
        self._structure = (x, y)
        arrays = [np.asarray(leaf) for leaf in keras.tree.flatten(self._structure)]
        weights = np.ones(arrays[0].shape[:1] or 1) if sample_weight is None else np.asarray(sample_weight)
        if weights.ndim != 1:
            raise InvalidArgumentError(
                f"Shares: sample_weight has the shape {weights.shape}: expected one weight for each example"
            )
        self._leaves = [*arrays, weights.astype(np.float32)]
        self._batches = batches(self._leaves, global_batch_size=global_batch_size, seed=seed, shuffle=shuffle)
        self._epoch = self._next = 0
        self._order = self._batches.order(0)
        self._was_ended = self._counts = False

    @property
    def num_batches(self) -> int:
        """Return the number of batches in an epoch."""
        return len(self._batches)

    def __len__(self) -> int:
        return len(self._batches)

    def on_epoch_begin(self) -> None:
        """Begin an epoch, in a new order (a collective). Keras calls this method.

        Raises:
            InvalidArgumentError: a model with ``ReplicaCallback`` that shares would train wrongly.
        """
        if (replicas := num_replicas()) > 1:
            size = self._batches.global_batch_size
            are_uneven = size % replicas > 0 or len(self._leaves[-1]) % size % replicas > 0
            refuse_unfit_model(are_uneven=are_uneven)
            training.note_shares(are_uneven=are_uneven)
        if self._next and self._counts:
            self._renew()
        self._next = 0
        # fit ends an epoch before it begins the first; one begun without that is given up when it has built the model.
        self._counts = self._was_ended
        self._batches.agree(self._epoch, 0)

    def on_epoch_end(self) -> None:
        """Note the end of an epoch. Keras calls this method."""
        self._was_ended = True

    def __getitem__(self, index: int) -> tuple[Any, Any, Any]:
        """Return this replica's share of the next global batch: (x, y, weights).

        Args:
            index: ignored, because ``fit`` shuffles it with a generator that replicas do not share.
        """
        if self._next == len(self):  # whoever iterates without fit begins no epochs
            self._renew()
        begin = self._next * self._batches.global_batch_size
        chosen = self._order[begin : begin + self._batches.global_batch_size]
        self._next += 1
        batch = self._batches.share(chosen, self._epoch, ends_epoch=self._next == len(self))
        leaves = batch.arrays if batch.items else [leaf[:1] for leaf in self._leaves]
        leaves[-1] = leaves[-1] * np.float32(num_replicas() * batch.items / batch.global_size)
        x, y = keras.tree.pack_sequence_as(self._structure, leaves[:-1])
        return x, y, leaves[-1]

    def _renew(self) -> None:
        self._epoch, self._next = self._epoch + 1, 0
        self._order = self._batches.order(self._epoch)
