"""A part of ``make chaos`` that every ``make test`` runs: some rows of the matrix, a few kills and resumptions."""

import os

import pytest
from chaos.matrix import Case, small_cases
from chaos.play import killed_and_resumed, mpi_cleaned_up, play


@pytest.fixture(scope="module", autouse=True)
def _clean():
    with mpi_cleaned_up():
        yield


@pytest.mark.parametrize("case", small_cases("mpi"), ids=str)
def test_a_fault_ends_as_promised(case: Case, tmp_path) -> None:
    play(case, tmp_path)


@pytest.mark.parametrize(("count", "update"), [(1, "replicated"), (3, "shared")])
def test_killed_and_resumed(count: int, update: str) -> None:
    killed_and_resumed(10, count, update)


@pytest.mark.parametrize("is_mine", [True, False])
def test_chaos_removes_the_files_of_this_user_alone(is_mine: bool, tmp_path, monkeypatch) -> None:
    user = os.geteuid() + (not is_mine)
    monkeypatch.setattr(os, "geteuid", lambda: user)
    path = tmp_path / "mpich_shm_1"
    with mpi_cleaned_up(tmp_path):
        path.touch()
    assert path.exists() != is_mine
