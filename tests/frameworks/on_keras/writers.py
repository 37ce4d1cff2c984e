"""Callbacks of Keras that write, on several replicas; test_on_ranks.py runs this file for each backend under mpirun."""

import logging
import os
import tempfile
from pathlib import Path

import keras
import numpy as np
import pytest
from frameworks.on_keras.on_replicas import alone, fit, model

import distopt
from distopt.adapters.keras import DistributedOptimizer, ReplicaCallback, Shares
from distopt.errors import InvalidArgumentError
from distopt.process.launcher import launched

# Keras' own
pytestmark = [pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")]
if launched() is not None:
    pytestmark.append(pytest.mark.mpi)
several = pytest.mark.skipif(distopt.num_replicas() == 1, reason="needs several replicas")


@pytest.fixture
def folder():
    """A folder that all replicas see."""
    mine = tempfile.mkdtemp() if distopt.replica_index() == 0 else ""
    name = distopt.broadcast(np.frombuffer(mine.ljust(200).encode(), np.uint8).copy()).tobytes().decode().strip()
    yield Path(name)
    distopt.barrier()
    if distopt.replica_index() == 0:
        for path in sorted(Path(name).rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        Path(name).rmdir()


class Calls(keras.callbacks.ModelCheckpoint):
    """A callback of the user's that is one of Keras', and notes when it saves."""

    def _save_model(self, epoch, batch, logs):
        with open(f"{self.filepath}.calls", "a", encoding="utf-8") as file:
            file.write(f"{distopt.replica_index()} ")
        super()._save_model(epoch, batch, logs)


def trained(*callbacks, epochs=2, **options):
    made = model(constrained=False)
    fit(made, DistributedOptimizer(keras.optimizers.SGD(0.1, momentum=0.9)), epochs, callbacks, **options)
    return made


def test_one_path_is_one_good_file(folder):
    path = folder / "best.keras"
    made = trained(Calls(str(path)), keras.callbacks.CSVLogger(str(folder / "log.csv")))
    assert Path(f"{path}.calls").read_text() == "0 0 "
    assert len((folder / "log.csv").read_text().splitlines()) == 3  # a header and two epochs
    saved = alone(keras.models.load_model, path, compile=False)
    for mine, written in zip(made.get_weights(), saved.get_weights(), strict=True):
        np.testing.assert_array_equal(mine, written)


def test_a_backup_is_read_by_all_and_written_by_one(folder):
    class Stop(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == 1:
                raise KeyError("interrupted")

    class Begun(keras.callbacks.Callback):
        epochs = ()

        def on_epoch_begin(self, epoch, logs=None):
            self.epochs = (*self.epochs, epoch)

    with pytest.raises(KeyError, match="interrupted"):
        trained(keras.callbacks.BackupAndRestore(str(folder / "backup")), Stop(), epochs=3)
    begun = Begun()
    trained(keras.callbacks.BackupAndRestore(str(folder / "backup")), begun, epochs=3)
    assert begun.epochs == (2,)
    distopt.barrier()  # replica 0 removes the backup after its wait for the others
    assert not (folder / "backup").exists()


@several
def test_a_backup_that_some_replicas_do_not_see(folder):
    mine = str(folder / f"backup-{os.getpid()}")
    callback = keras.callbacks.BackupAndRestore(mine, delete_checkpoint=False)
    trained(callback, epochs=1)
    again = keras.callbacks.BackupAndRestore(mine)
    if distopt.replica_index() > 0:
        assert not Path(mine).exists()
    with pytest.raises(InvalidArgumentError, match=r"begin with epochs \[1, 0"):
        trained(again, epochs=2)


@several
def test_a_writer_before_the_replica_callback_is_refused(folder):
    made = model()
    made.compile(DistributedOptimizer(keras.optimizers.SGD(0.1)), loss="mse")
    shares = Shares(np.ones((4, 6)), np.ones((4, 4)), global_batch_size=4)
    with pytest.raises(InvalidArgumentError, match="ReplicaCallback stands after ModelCheckpoint"):
        made.fit(
            shares, verbose=0, callbacks=[keras.callbacks.ModelCheckpoint(str(folder / "a.keras")), ReplicaCallback()]
        )


@several
def test_replicas_that_share_their_state_need_a_path_each(folder):
    with distopt.Strategy(update="shared").scope():
        with pytest.raises(InvalidArgumentError, match=r"several replicas save to '.*one\.keras'"):
            trained(keras.callbacks.ModelCheckpoint(str(folder / "one.keras")))
        mine = folder / f"{distopt.replica_index()}.keras"
        trained(keras.callbacks.ModelCheckpoint(str(mine)))
    assert mine.exists()


def told(caplog):
    return [record.getMessage() for record in caplog.records if "fit logs means" in record.getMessage()]


@several
def test_a_mean_of_means_says_so_once(caplog):
    with caplog.at_level(logging.WARNING, "distopt"):
        trained(epochs=3)
    expected = 1 if distopt.replica_index() == 0 else 0
    assert len(told(caplog)) == expected
    assert all("all numbers may differ" in text and "shares are uneven" in text for text in told(caplog))


@several
def test_metrics_that_are_no_means_are_named(caplog):
    made = model()
    made.compile(
        DistributedOptimizer(keras.optimizers.SGD(0.1)),
        loss="mse",
        metrics=["mae", keras.metrics.RootMeanSquaredError(name="rmse")],
    )
    count = 2 * distopt.num_replicas()
    shares = Shares(np.ones((count, 6), "float32"), np.ones((count, 4), "float32"), global_batch_size=count)
    with caplog.at_level(logging.WARNING, "distopt"):
        made.fit(shares, verbose=0, callbacks=[ReplicaCallback()])
    assert told(caplog) == ([told(caplog)[0]] if distopt.replica_index() == 0 else [])
    assert all("rmse may differ" in text and "mae" not in text for text in told(caplog))


@several
def test_even_shares_and_means_say_nothing(caplog):
    made = model()
    made.compile(DistributedOptimizer(keras.optimizers.SGD(0.1)), loss="mse", metrics=["mae"])
    count = 2 * distopt.num_replicas()
    shares = Shares(np.ones((count, 6), "float32"), np.ones((count, 4), "float32"), global_batch_size=count)
    with caplog.at_level(logging.WARNING, "distopt"):
        made.fit(shares, verbose=0, callbacks=[ReplicaCallback()])
    assert not told(caplog)
