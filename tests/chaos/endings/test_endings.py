"""Every row of the table of endings keeps its promise: ``pytest tests/chaos/endings -m chaos``."""

import pytest
from chaos.endings.play import play
from chaos.endings.table import Ending, endings
from chaos.play import mpi_cleaned_up

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(240)]


@pytest.fixture(scope="module", autouse=True)
def _clean():
    with mpi_cleaned_up():
        yield


@pytest.mark.parametrize("row", endings("distopt run", "mpirun"), ids=str)
def test_a_job_ends_as_promised(row: Ending, tmp_path) -> None:
    play(row, tmp_path)


@pytest.fixture(scope="module")
def cluster():
    """The environment of somebody who is told of a Ray cluster, which is slow to start, and to notice what is free."""
    ray = pytest.importorskip("ray")
    ray.init(address="local", num_cpus=8, include_dashboard=False, log_to_driver=False)
    yield {"RAY_ADDRESS": ray.get_runtime_context().gcs_address, "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2"}
    ray.shutdown()


@pytest.mark.parametrize("row", endings("ray"), ids=str)
def test_a_ray_job_ends_as_promised(row: Ending, tmp_path, cluster) -> None:
    play(row, tmp_path, cluster)
