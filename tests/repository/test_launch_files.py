"""The shell scripts, read by a tool that knows what goes wrong in them."""

import subprocess
import sys
from pathlib import Path

import pytest
from support import ROOT

LAUNCH = ROOT / "launch"
SCRIPTS = sorted([*LAUNCH.glob("*.sh"), *LAUNCH.glob("*.sbatch"), *(ROOT / "tests/machines").glob("*.sh")])


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_shell_scripts_have_nothing_that_shellcheck_knows(path):
    shellcheck = Path(sys.executable).with_name("shellcheck")
    # SC1091: the environment that a script enters is not there where it is checked.
    result = subprocess.run([shellcheck, "--exclude=SC1091", path], capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stdout
