"""A part of the table of endings, of which ``make chaos`` tries all."""

import pytest
from chaos.endings.play import play
from chaos.endings.table import Ending, small_endings
from chaos.play import mpi_cleaned_up


@pytest.fixture(scope="module", autouse=True)
def _clean():
    with mpi_cleaned_up():
        yield


@pytest.mark.parametrize("row", small_endings(), ids=str)
def test_a_job_ends_as_promised(row: Ending, tmp_path) -> None:
    play(row, tmp_path)
