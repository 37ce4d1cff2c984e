"""Ray Train's trainer, whose workers are replicas."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from ray.train import Result, RunConfig, ScalingConfig, TrainingFailedError, WorkerGroupError

from distopt.errors import InvalidArgumentError
from distopt.ray.backend import DataParallelTrainer, DistoptConfig, cause_of
from distopt.ray.capacity import check_room
from distopt.ray.unpicklable import explain_unpicklable

_CHDIR = "RAY_CHDIR_TO_TRIAL_DIR"


class DistoptTrainer(DataParallelTrainer):
    """Ray Train's data-parallel trainer, whose workers are the replicas of ``distopt.get_strategy()``.

    Workers are placed, restarted and given checkpoints by Ray Train, as its documentation says of ``ScalingConfig``,
    ``RunConfig``, ``FailureConfig``, ``CheckpointConfig``, ``ray.train.report`` and elastic ``(min, max)`` workers.
    When a worker raises or dies, the others raise within seconds.

    The training function runs in the directory in which the trainer was made, on nodes that have it, so that relative
    paths lead where they lead for a script. With ``RAY_CHDIR_TO_TRIAL_DIR`` in the environment Ray Train decides.

    Args:
        train_loop_per_worker: the training function, of no argument or of ``train_loop_config``; it makes variables
            and optimizer itself. Its result has the same bits as with ``mpirun`` on as many replicas.
        train_loop_config: the argument of the training function.
        scaling_config: the number of workers, and the resources that each needs.
        run_config: name, storage, failures, checkpoints.
        options: further arguments of Ray Train's ``DataParallelTrainer`` (``datasets``, ``dataset_config``).

    Example:
        >>> import distopt, ray.train
        >>> def train(config):
        ...     w = distopt.Variable([0.0], name="w")
        ...     optimizer = distopt.optimizers.SGD(config["learning_rate"])
        ...     optimizer.apply_gradients([([distopt.replica_index() + 1.0], w)])
        ...     distopt.print_once(w.numpy())
        >>> trainer = DistoptTrainer(
        ...     train, train_loop_config={"learning_rate": 1.0}, scaling_config=ray.train.ScalingConfig(num_workers=2)
        ... )
        >>> trainer.fit()  # doctest: +SKIP
        (RayTrainWorker pid=4711) [-3.]
    """

    def __init__(
        self,
        train_loop_per_worker: Callable[..., Any],
        *,
        train_loop_config: dict[str, Any] | None = None,
        scaling_config: ScalingConfig | None = None,
        run_config: RunConfig | None = None,
        **options: Any,
    ) -> None:
        self._function, self._config = train_loop_per_worker, train_loop_config
        super().__init__(
            train_loop_per_worker,
            train_loop_config=train_loop_config,
            backend_config=DistoptConfig(None if _CHDIR in os.environ else os.getcwd()),
            scaling_config=scaling_config,
            run_config=run_config,
            **options,
        )

    def fit(self) -> Result:
        """Train, and return Ray Train's result.

        Raises:
            InvalidArgumentError: the cluster has no room for so many workers, or the training function or its argument
                can't be sent to them.
            ray.train.WorkerGroupError: the first failure of a worker, with its traceback; ``worker_failures`` has all
                failures.
        """
        check_room(self.scaling_config)
        try:
            return super().fit()
        except WorkerGroupError as error:
            replica, text = cause_of(error)
            raise WorkerGroupError(f"replica {replica} failed first:\n{text}", error.worker_failures) from None
        except TrainingFailedError:
            raise
        except Exception as error:
            complaint = explain_unpicklable(self._function, self._config or {})
            if complaint is None:
                raise
            raise InvalidArgumentError(complaint) from error
