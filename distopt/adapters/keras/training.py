"""The ``fit`` in progress: ``Shares`` are not told of it by Keras, nor ``ReplicaCallback`` of what they give it."""

from __future__ import annotations

import weakref
from typing import Any


class Training:
    """The last ``fit`` that had a ``ReplicaCallback``, until it ends."""

    def __init__(self) -> None:
        self._model: weakref.ref[Any] | None = None
        self.has_uneven_shares = False
        """True once some replica has had fewer examples of a batch than another."""

    def begin(self, model: Any) -> None:
        """Note that ``fit`` of a model begins."""
        self._model, self.has_uneven_shares = weakref.ref(model), False

    def end(self) -> None:
        """Note that ``fit`` has ended."""
        self._model = None

    @property
    def model(self) -> Any:
        """Return the model in training; None outside of ``fit``."""
        return None if self._model is None else self._model()

    def note_shares(self, *, are_uneven: bool) -> None:
        """Note that an epoch over ``Shares`` begins."""
        self.has_uneven_shares |= are_uneven


training = Training()
"""That of this process."""
