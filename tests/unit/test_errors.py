"""The exceptions: builtins as well, and able to travel between processes."""

import pickle

import pytest

from distopt import errors

CASES = [
    (errors.ReplicaFailedError("replica 2 failed", replica_index=2), RuntimeError),
    (errors.MissingExtraError("mpi4py", "mpi", "running under MPI"), ImportError),
    (errors.InvalidArgumentError("no"), ValueError),
    (errors.CollectiveMismatchError("no"), errors.ReplicaError),
]


@pytest.mark.parametrize(("error", "kind"), CASES)
def test_it_is_what_a_reader_expects_and_pickles(error: Exception, kind: type[Exception]) -> None:
    assert isinstance(error, kind)
    assert isinstance(error, errors.DistoptError)
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy)) == (type(error), str(error))
    assert getattr(copy, "replica_index", None) == getattr(error, "replica_index", None)


def test_a_missing_extra_names_the_pip_line() -> None:
    assert "pip install 'distopt[mpi]'" in str(CASES[1][0])


def test_every_exception_is_drawn_in_the_tree() -> None:
    tree = errors.__doc__
    for name, value in vars(errors).items():
        if isinstance(value, type) and issubclass(value, errors.DistoptError):
            assert name in tree, name
