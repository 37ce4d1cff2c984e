"""The exceptions of distopt.

Each class is also a subclass of the builtin that a reader would expect, so that ``except ValueError`` keeps working::

    DistoptError
    ├── InvalidArgumentError (ValueError)       an argument that can't be right, with the cure
    ├── UnknownArgumentError (TypeError)        an argument that nobody knows
    ├── MissingExtraError (ImportError)         an optional package is needed and absent
    ├── ForeignVariableError (RuntimeError)     a variable used by a replica that did not make it
    ├── UntraceableError (TypeError)            an operation that would lose the gradient
    ├── DamagedOptimizerError (RuntimeError)    a step failed after it had begun to write
    ├── NonFiniteGradientError (ArithmeticError) the sum of the gradients holds NaN or an infinity
    ├── CheckpointError (RuntimeError)          a checkpoint can't be written, or none can be read
    ├── CarriedError (RuntimeError)             the text of an exception that could not travel between processes
    └── ReplicaError (RuntimeError)             something between replicas
        ├── CollectiveMismatchError             replicas called different things
        ├── ReplicaFailedError                  another replica raised
        ├── ReplicaLeftError                    another replica ended while this one went on
        ├── ReplicaLostError                    another replica died, and the others can go on
        ├── StalledError                        another replica did not come before the deadline
        ├── DivergedError                       parameters or slots of the replicas are no longer equal
        ├── ForkedProcessError                  a child of a replica called distopt
        ├── DeadCommunicatorError               a communicator used after a failure
        ├── NoSharedMemoryError                 replicas of one node can't share memory
        └── LauncherMismatchError               the launcher's processes can't find each other
"""

from __future__ import annotations

__all__ = [
    "CarriedError",
    "CheckpointError",
    "CollectiveMismatchError",
    "DamagedOptimizerError",
    "DeadCommunicatorError",
    "DistoptError",
    "DivergedError",
    "ForeignVariableError",
    "ForkedProcessError",
    "InvalidArgumentError",
    "LauncherMismatchError",
    "MissingExtraError",
    "NoSharedMemoryError",
    "NonFiniteGradientError",
    "ReplicaError",
    "ReplicaFailedError",
    "ReplicaLeftError",
    "ReplicaLostError",
    "StalledError",
    "UnknownArgumentError",
    "UntraceableError",
]


def __dir__() -> list[str]:
    return __all__


class DistoptError(Exception):
    """Root of all exceptions that distopt defines."""


class InvalidArgumentError(DistoptError, ValueError):
    """An argument has a value that can't be right."""


class UnknownArgumentError(DistoptError, TypeError):
    """An argument that the callee does not know."""


class MissingExtraError(DistoptError, ImportError):
    """An optional package is needed and not installed."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(f"{purpose} needs {package}, which is not installed: pip install 'distopt[{extra}]'")
        self._arguments = (package, extra, purpose)

    def __reduce__(self) -> tuple[type[MissingExtraError], tuple[str, str, str]]:
        return type(self), self._arguments


class ForeignVariableError(DistoptError, RuntimeError):
    """A variable was used by a replica that did not make it."""


class UntraceableError(DistoptError, TypeError):
    """An operation on a traced value would lose its gradient."""


class DamagedOptimizerError(DistoptError, RuntimeError):
    """An earlier step failed after it had begun to write; parameters and slots can't be trusted."""


class NonFiniteGradientError(DistoptError, ArithmeticError):
    """The sum of the gradients holds NaN or an infinity; nothing was updated."""


class CheckpointError(DistoptError, RuntimeError):
    """A checkpoint could not be written, or none that can be trusted was found."""


class CarriedError(DistoptError, RuntimeError):
    """The text and the traceback of an exception of another process, which itself could not travel."""


class ReplicaError(DistoptError, RuntimeError):
    """Something went wrong between replicas."""


class CollectiveMismatchError(ReplicaError):
    """Replicas called different things, or the same thing with different arguments."""


class ReplicaFailedError(ReplicaError):
    """Another replica raised an exception; ``replica_index`` is the index of that replica."""

    def __init__(self, message: str, replica_index: int) -> None:
        super().__init__(message)
        self.replica_index = replica_index

    def __reduce__(self) -> tuple[type[ReplicaFailedError], tuple[str, int]]:
        return type(self), (str(self), self.replica_index)


class ReplicaLeftError(ReplicaError):
    """Another replica ended (or left its loop) while this one still needed it."""


class ReplicaLostError(ReplicaError):
    """Another replica has died; the others can go on (``distopt.elastic``)."""


class StalledError(ReplicaError):
    """Other replicas did not come to a call before the deadline; ``missing`` has their indices."""

    def __init__(self, message: str, missing: list[int]) -> None:
        super().__init__(message)
        self.missing = missing

    def __reduce__(self) -> tuple[type[StalledError], tuple[str, list[int]]]:
        return type(self), (str(self), self.missing)


class DivergedError(ReplicaError):
    """Parameters or slots that must be equal on all replicas are not, or changed between two steps."""


class ForkedProcessError(ReplicaError):
    """A process that was forked from a replica called distopt; it is no replica."""


class DeadCommunicatorError(ReplicaError):
    """A communicator was used after a failure had ended it."""


class NoSharedMemoryError(ReplicaError):
    """Replicas of one node can't share memory."""


class LauncherMismatchError(ReplicaError):
    """The launcher started several processes that can't find each other: its MPI library is another, or it has none."""
