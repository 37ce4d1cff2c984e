"""However a replica ends, by whatever names and hooks: it is the one that is blamed, with its own status."""

import pytest
from quick import cases
from support import SOON, run_replicas

ENVIRONMENT = {"DISTOPT_KERNELS": "reference", "OPENBLAS_NUM_THREADS": "1"}
JOB = """
{before}
import sys, threading
import numpy as np, distopt
{after}
w = distopt.Variable(np.zeros(3, "float32"), name="w")
optimizer = distopt.optimizers.SGD(0.1)
for k in range(4):
    if k == 2 and distopt.replica_index() == 1:
        {ending}
    optimizer.apply_gradients([(np.ones(3, "float32"), w)])
print("finished", flush=True)
"""
RICH = "import rich.traceback; rich.traceback.install()"
CALLED, RAISED = "called sys.exit(3)", "ValueError: boom"
BOOM = "raise ValueError('boom')"
ENDINGS = {
    "SystemExit": ("", "", "raise SystemExit(3)", 3, CALLED),
    "a class of the user's": ("class Mine(SystemExit): pass", "", "raise Mine(3)", 3, CALLED),
    "exit of before": ("from sys import exit", "", "exit(3)", 3, CALLED),
    "another name": ("from sys import exit as leave", "", "leave(3)", 3, CALLED),
    "exit of site": ("", "", "quit(3)", 3, CALLED),
    "a text": ("", "", "raise SystemExit('enough')", 1, "called sys.exit(1)"),
    "a code that was set": ("", "leaving = SystemExit(); leaving.code = 3", "raise leaving", 3, CALLED),
    "a hook of before": (RICH, "", BOOM, 1, RAISED),
    "a hook of after": ("", RICH, BOOM, 1, RAISED),
    "a hook that raises": ("", "def hook(*_): int('hook')\nsys.excepthook = hook", BOOM, 1, RAISED),
    "no hook": ("", "", f"sys.excepthook = None; {BOOM}", 1, RAISED),
}


@pytest.mark.parametrize(
    "kind",
    cases(
        [(kind,) for kind in ENDINGS],
        quick=[("SystemExit",), ("exit of before",), ("a hook of before",), ("a hook of after",)],
    ),
)
def test_the_replica_that_ended_is_blamed(kind):
    before, after, ending, status, said = ENDINGS[kind]
    result = run_replicas(2, JOB.format(before=before, after=after, ending=ending), env=ENVIRONMENT)
    assert result.seconds < SOON
    assert result.status == status, result.text
    assert "finished" not in result.output
    _, _, last = result.errors.rpartition(" failed:")
    assert "Replica 1 failed:" in result.errors
    assert "Replica 0 failed:" not in result.errors
    assert said in last


ENDED_WELL = """
import code, sys
from sys import exit
import distopt
distopt.barrier()
try:
    exit(3)
except SystemExit as error:
    assert (error.code, type(error)) == (3, SystemExit)
sys.excepthook = lambda *_: None
assert not code.InteractiveInterpreter().runsource("1 / 0")  # leaves sys.last_value
distopt.barrier()
{ending}
"""


@pytest.mark.parametrize("ending", ["exit()", "raise SystemExit", "raise SystemExit(0)", "pass"])
def test_what_was_caught_and_what_ends_well_is_no_failure(ending):
    result = run_replicas(2, ENDED_WELL.format(ending=ending), env=ENVIRONMENT)
    assert result.status == 0, result.text
