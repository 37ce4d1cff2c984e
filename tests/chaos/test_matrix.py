"""Every row of the matrix keeps its promise: ``pytest tests/chaos -m chaos``."""

import pytest
from chaos.matrix import Case, cases
from chaos.play import mpi_cleaned_up, play

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(60)]


@pytest.fixture(scope="module", autouse=True)
def _clean():
    with mpi_cleaned_up():
        yield


@pytest.mark.parametrize("case", cases("threads", "mpi"), ids=str)
def test_a_fault_ends_as_promised(case: Case, tmp_path) -> None:
    play(case, tmp_path)
