"""Programs that wrap, gather or log what they catch: the first failure is that of the replica where it began."""

import pytest
from support import DISTOPT, run, script_file

BEGIN = """
import contextlib, logging, sys
import numpy as np, distopt
w = distopt.Variable(np.zeros(3, "float32"), name="w")
optimizer = distopt.optimizers.Adam(0.05)
def step():
    optimizer.apply_gradients([(np.ones(3, "float32"), w)])
def train():
    if distopt.replica_index() == 1:
        raise ValueError("the cause")
    step()
step()
"""
ENDS = {
    "raise from": """
try:
    train()
except Exception as error:
    raise RuntimeError("training failed") from error
""",
    "raise from None": """
try:
    train()
except Exception:
    raise RuntimeError("training failed") from None
""",
    "a group": """
errors = []
try:
    train()
except Exception as error:
    errors.append(error)
raise ExceptionGroup("all errors", errors)
""",
    "log and exit": """
try:
    train()
except Exception:
    logging.exception("training failed")
    sys.exit(3)
""",
    "a hook that fails": """
def hook(*_):
    raise RuntimeError("the hook is broken")
sys.excepthook = hook
train()
""",
    "an exit of 256": """
try:
    train()
except ValueError:
    sys.exit(256)
""",
    "a guard that exits": """
@contextlib.contextmanager
def guard():
    try:
        yield
    except BaseException:
        raise SystemExit(3)
with guard():
    train()
""",
}


@pytest.mark.parametrize("end", ENDS)
def test_the_first_failure_is_where_it_began(end):
    with script_file(BEGIN + ENDS[end]) as path:
        result = run([DISTOPT, "run", "-n", "3", path])
    assert result.status == (3 if end in ("log and exit", "a guard that exits") else 1)
    *_, last = result.errors.split("\nReplica ")
    assert last.startswith("1 failed:")
