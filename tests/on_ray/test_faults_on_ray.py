"""The table of what can go wrong, in Ray actors: a part of it in ``make test-ray``, the rest in ``make chaos``."""

import pytest
from chaos.matrix import Case, cases, small_cases
from chaos.play import play

pytestmark = [pytest.mark.timeout(300), pytest.mark.usefixtures("cluster")]
SMALL = [case for case in small_cases("ray") if case.place or case.kind == "skip a call"]


@pytest.mark.parametrize("case", SMALL, ids=str)
def test_a_fault_ends_as_promised(case: Case, tmp_path) -> None:
    play(case, tmp_path)


@pytest.mark.chaos
@pytest.mark.parametrize("case", [case for case in cases("ray") if case not in SMALL], ids=str)
def test_every_other_fault_does_too(case: Case, tmp_path) -> None:
    play(case, tmp_path)
