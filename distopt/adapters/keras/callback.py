"""The callback of ``fit``: steps behind what JAX compiles, and logs that are the same on every replica."""

from __future__ import annotations

import logging
from typing import Any

import keras
import numpy as np

from distopt.adapters.keras.optimizer import DistributedOptimizer
from distopt.adapters.keras.training import training
from distopt.adapters.keras.writers import Writers
from distopt.distribute.agreement.header import telling_the_others
from distopt.distribute.belonging import Belonging, in_own_scope
from distopt.distribute.collectives import all_gather, all_reduce, barrier, num_replicas
from distopt.distribute.strategy import get_strategy
from distopt.errors import InvalidArgumentError
from distopt.optimizers.common.access import belonging_of

_logger = logging.getLogger("distopt")


class ReplicaCallback(keras.callbacks.Callback):
    """Does what replicas do together around the batches of ``fit``. Every replica passes one, before other callbacks.

    On the JAX backend the callback makes the step of ``DistributedOptimizer`` after each batch. At the end of an epoch
    it replaces the numbers in the logs, ``val_`` ones included, by their means over the replicas. So the callbacks
    after it (ReduceLROnPlateau, EarlyStopping, History) see the same numbers on every replica, and decide the same.
    Where such a mean differs from the number of one process, that is said once. Only ``evaluate`` returns this
    replica's numbers.

    Callbacks of Keras that write (ModelCheckpoint, BackupAndRestore, CSVLogger, TensorBoard, RemoteMonitor) run on
    replica 0 only; all replicas read the files of BackupAndRestore, and all have them when ``fit`` returns. With
    ``update="shared"`` those that save a model run on every replica, and need a path for each.

    Raises:
        InvalidArgumentError: the model was compiled with another optimizer; a callback that writes stands before this
            one; several replicas that share their state save to one path.

    Example:
        >>> logs = {"loss": 0.5}
        >>> ReplicaCallback().on_epoch_end(0, logs)
        >>> logs
        {'loss': 0.5}
    """

    def __init__(self) -> None:
        super().__init__()
        self._writers: Writers | None = None
        self._has_told = False

    @property
    def _distopt_belonging(self) -> Belonging:
        """Return where the optimizer belongs."""
        return belonging_of(getattr(getattr(self.model, "optimizer", None), "inner", None))

    @in_own_scope
    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Tell the optimizer that this callback will make the steps."""
        optimizer = self.model.optimizer
        if not isinstance(optimizer, DistributedOptimizer):
            raise InvalidArgumentError(
                f"ReplicaCallback: the model was compiled with {optimizer!r}, which would train each replica apart. "
                "compile(optimizer=distopt.adapters.keras.DistributedOptimizer(...))"
            )
        optimizer.attend(self.model.trainable_variables)
        training.begin(self.model)
        self._has_told = False
        if num_replicas() > 1:
            with telling_the_others(get_strategy().ready()):
                self._writers = Writers(self)
            self._writers.keep_to_replica_0(has_restored=False)

    @in_own_scope
    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Note that ``fit`` has ended; wait until replica 0 has written what others may read now."""
        training.end()
        barrier()

    @in_own_scope
    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """See that replicas begin with the same epoch: a backup may have been found by some of them only."""
        if self._writers is None:
            return
        self._writers.keep_to_replica_0(has_restored=True)
        self._writers = None
        epochs = all_gather(np.array(epoch)).tolist()
        if len(set(epochs)) > 1:
            raise InvalidArgumentError(
                f"replicas 0 to {len(epochs) - 1} begin with epochs {epochs}: pass the same initial_epoch, and a "
                "backup_dir for BackupAndRestore that all replicas can read"
            )

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Make the step of a batch whose gradients compiled code has computed."""
        # Reading self.model brings the state of what JAX has computed into the model's variables.
        self.model.optimizer.step_of_left_gradients()

    @in_own_scope
    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Average the logs over the replicas (a collective)."""
        if logs:
            names = sorted(logs)
            total = all_reduce(np.array([float(logs[name]) for name in names]))
            logs.update(zip(names, (total / num_replicas()).tolist(), strict=True))
            if num_replicas() > 1 and not self._has_told:
                self._tell_of_means()

    def _tell_of_means(self) -> None:
        """Say, once and on replica 0, which numbers of the logs are not those of one process."""
        others = [
            metric.name for metric in _metrics(self.model) if type(metric).result is not keras.metrics.Mean.result
        ]
        names = "all numbers" if training.has_uneven_shares else ", ".join(sorted(set(others)))
        self._has_told = bool(names)
        if names and get_strategy().replica_index == 0:
            _logger.warning(
                "fit logs means of the replicas' values, and %s may differ from those of one process%s. "
                "distopt.metrics computes exact ones.",
                names,
                ", because shares are uneven" if training.has_uneven_shares else "",
            )


def _metrics(model: Any) -> list[Any]:
    """Return the metrics of a model, those of ``compile`` one by one."""
    return [each for metric in model.metrics for each in (getattr(metric, "metrics", None) or [metric])]
