"""Callbacks of ``fit`` that write: on several replicas only replica 0's do, or one path would be a corrupt file."""

from __future__ import annotations

import inspect
from collections import Counter
from typing import Any

import keras

from distopt.distribute.agreement.header import Call, agree, exchange_texts
from distopt.distribute.strategy import get_strategy
from distopt.errors import InvalidArgumentError

_LOGGERS = (keras.callbacks.CSVLogger, keras.callbacks.TensorBoard, keras.callbacks.RemoteMonitor)
_SAVERS = (keras.callbacks.ModelCheckpoint, keras.callbacks.BackupAndRestore)
_PATHS = ("filepath", "backup_dir")


class Writers:
    """The callbacks that write in one ``fit``: those that stand beside a ``ReplicaCallback``.

    Args:
        callback: the ``ReplicaCallback``, while Keras calls its ``on_train_begin``.

    Raises:
        InvalidArgumentError: one stands before the ``ReplicaCallback``; one path for several replicas whose state is
            shared, where each has to save.
    """

    def __init__(self, callback: keras.callbacks.Callback) -> None:
        self._list = _list_of(callback)
        known = [] if self._list is None else self._list.callbacks
        self._writers = [each for each in known if isinstance(each, (*_LOGGERS, *_SAVERS))]
        for writer in self._writers:
            if known.index(writer) < known.index(callback):
                raise InvalidArgumentError(
                    f"ReplicaCallback stands after {type(writer).__name__}, which then writes on every replica: put it "
                    "before all other callbacks"
                )
        if get_strategy().shares_parameters:
            self._refuse_equal_paths()

    def keep_to_replica_0(self, *, has_restored: bool) -> None:
        """Take the writers of other replicas out of ``fit``; where replicas share their state, each has to save.

        Args:
            has_restored: False before ``BackupAndRestore`` has read its files, which all replicas do.
        """
        strategy = get_strategy()
        if self._list is None or strategy.replica_index == 0:
            return
        for writer in self._writers:
            is_kept = isinstance(writer, _SAVERS) and strategy.shares_parameters
            if not is_kept and has_restored == isinstance(writer, keras.callbacks.BackupAndRestore):
                self._list.callbacks.remove(writer)

    def _refuse_equal_paths(self) -> None:
        paths = [str(getattr(each, name)) for each in self._writers for name in _PATHS if hasattr(each, name)]
        communicator = get_strategy().ready()
        agree(communicator, Call("fit with ReplicaCallback"))
        rows = [set(row.split("\n")) for row in exchange_texts(communicator, "\n".join(paths))]
        twice = [path for path, count in Counter(path for row in rows for path in row if path).items() if count > 1]
        if twice:
            raise InvalidArgumentError(
                f"several replicas save to {twice[0]!r}. With update='shared' a model is saved by all replicas "
                "together: give each a path of its own, with distopt.replica_index() in it"
            )


def _list_of(callback: keras.callbacks.Callback) -> Any:
    """Return the list whose method calls a callback. Keras tells callbacks neither of the list nor of each other."""
    frame = inspect.currentframe()
    while frame is not None:
        caller = frame.f_locals.get("self")
        if isinstance(caller, keras.callbacks.CallbackList) and callback in caller.callbacks:
            return caller
        frame = frame.f_back
    return None
