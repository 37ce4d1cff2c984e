"""The callback of ``fit``: steps behind what JAX compiles, and logs that are the same on every replica."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from distopt.adapters.keras.optimizer import DistributedOptimizer
from distopt.adapters.keras.refusals import note_end_of_training, note_training
from distopt.distribute.collectives import all_reduce, num_replicas
from distopt.errors import InvalidArgumentError


class ReplicaCallback(keras.callbacks.Callback):
    """Does what replicas do together around the batches of ``fit``. Every replica passes one, before other callbacks.

    On the JAX backend the callback makes the step of ``DistributedOptimizer`` after each batch. At the end of an epoch
    it replaces the numbers in the logs, ``val_`` ones included, by their means over the replicas. So the callbacks
    after it (ReduceLROnPlateau, EarlyStopping, History) see the same numbers on every replica, and decide the same.
    Only ``evaluate`` returns this replica's numbers.

    Raises:
        InvalidArgumentError: the model was compiled with another optimizer.

    Example:
        >>> logs = {"loss": 0.5}
        >>> ReplicaCallback().on_epoch_end(0, logs)
        >>> logs
        {'loss': 0.5}
    """

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Tell the optimizer that this callback will make the steps."""
        optimizer = self.model.optimizer
        if not isinstance(optimizer, DistributedOptimizer):
            raise InvalidArgumentError(
                f"ReplicaCallback: the model was compiled with {optimizer!r}, which would train each replica apart. "
                "compile(optimizer=distopt.adapters.keras.DistributedOptimizer(...))"
            )
        optimizer.attend(self.model.trainable_variables)
        note_training(self.model)

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Note that ``fit`` has ended."""
        note_end_of_training()

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Make the step of a batch whose gradients compiled code has computed."""
        # Reading self.model brings the state of what JAX has computed into the model's variables.
        self.model.optimizer.step_of_left_gradients()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Average the logs over the replicas (a collective)."""
        if logs:
            names = sorted(logs)
            total = all_reduce(np.array([float(logs[name]) for name in names]))
            logs.update(zip(names, (total / num_replicas()).tolist(), strict=True))
