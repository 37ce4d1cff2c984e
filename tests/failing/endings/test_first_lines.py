"""A replica that fails, ends or hangs before its program imports distopt, or before MPI has all replicas."""

import os
import re
import signal
import sys
from pathlib import Path

import pytest
from failing.processes import that_do_not_end
from quick import cases
from support import DISTOPT, PATH, SOON, mpirun, run, run_replicas, script_file, started

EARLY = Path(__file__).parent / "early.py"
QUICK_WORDS = {"DISTOPT_DEADLINES": "warn=1,silent=2,end=4", "DISTOPT_KERNELS": "reference"}


def job(*arguments, env=None, script=EARLY, options=()):
    return run([DISTOPT, "run", "-n", "3", *options, script, *arguments], env=(env or {}))


@pytest.mark.parametrize(
    ("kind", "last"),
    cases(
        [
            ("missing", r"ModuleNotFoundError: No module named 'not_there'"),
            ("exit", r"Replica 1 failed: called sys.exit\(3\)"),
            ("leave", r"replica 1.* (has ended|left)"),
            ("thread", r"ValueError: invalid literal .*'boom'"),
            ("kill", r"distopt run: replica 1 .* was killed by signal 9 \(SIGKILL\); if nobody killed it.*"),
        ],
        quick=[("missing", r"ModuleNotFoundError: No module named 'not_there'")],
    ),
)
def test_an_end_before_the_import_ends_the_job(kind, last):
    result = job(kind, env={"DISTOPT_KERNELS": "reference"})
    assert result.status != 0
    assert "finished" not in result.output
    assert re.search(last, result.errors.rstrip().splitlines()[-1]), result.errors
    assert "distopt/program" not in result.errors
    assert "<string>" not in result.errors
    assert result.seconds < SOON


@pytest.mark.parametrize("package", ["distopt", pytest.param("numpy", marks=pytest.mark.slow)])
def test_a_package_that_one_machine_lacks(package, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(
        "import os, sys\n"
        "if '1' in (os.environ.get('PMI_RANK'), os.environ.get('OMPI_COMM_WORLD_RANK')):\n"
        f"    sys.modules['{package}'] = None\n"
    )
    path = os.pathsep.join([str(tmp_path), *filter(None, PATH)])
    result = job("none", env={"PYTHONPATH": path})
    assert result.status != 0
    assert "Replica 1 failed:" in result.errors
    last = result.errors.rstrip().splitlines()[-1]
    assert last == f"ModuleNotFoundError: import of {package} halted; None in sys.modules"


@pytest.mark.parametrize(
    ("kind", "words"),
    cases(
        [
            ("vanish", r"which has ended without MPI"),
            ("vanish with 5", r"which has ended without MPI|replica 1 \(pid \d+ on .*\) ended first"),
            ("hang", r"which has not called it and is at .*early\.py:\d+\. That is longer than 4 s"),
            ("stop", r"which is stopped .*\. That is longer than 2 s"),
        ],
        quick=[
            ("vanish", r"which has ended without MPI"),
            ("hang", r"which has not called it and is at .*early\.py:\d+\. That is longer than 4 s"),
        ],
    ),
)
@pytest.mark.parametrize("first", ["distopt first", pytest.param("MPI first", marks=pytest.mark.slow)])
def test_others_do_not_wait_in_mpi_init_for_ever(kind, words, first):
    result = job(kind, first, env=QUICK_WORDS)
    assert result.status != 0
    assert "finished" not in result.output
    last = result.errors.rstrip().splitlines()[-1]
    assert re.search(words, last), result.errors
    if kind == "hang":
        assert re.search(r"distopt run: replica 0 has waited 1 s in MPI_Init for replica 1 \(pid", result.errors)
        assert re.search(r'==== replica 1:\n(Current thread|Thread).*\n  File ".*early.py", line', result.errors)
        assert "\0" not in result.errors


def test_under_plain_mpirun_waiting_in_mpi_init_ends_too():
    result = run_replicas(3, EARLY, ["hang"], env={"DISTOPT_DEADLINES": "warn=1,silent=2,end=2"})
    assert result.status != 0
    assert "Timeout (0:00:02)" in result.errors
    assert "in wait_in_MPI_Init_for_all_replicas" in result.errors


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_a_job_that_hangs_before_mpi_can_be_stopped(number):
    with started([DISTOPT, "run", "-n", "3", EARLY, "hang"]) as running:
        running.wait_for("hangs in")
        (pid,) = map(int, re.findall(r"hangs in (\d+)", running.output))
        running.process.send_signal(number)
        result = running.wait()
    assert result.status != 0
    assert result.errors.rstrip().endswith(f"distopt run: stopped by {number.name}")
    assert not that_do_not_end([pid])


def test_a_syntax_error_is_shown_as_python_shows_it():
    with script_file("import os\nx = (\n") as path:
        result = job(script=path)
    assert result.status != 0
    assert re.search(
        rf'\nReplica 0 failed:\n(Traceback.*\n)?  File "{path}", line 2\n    x = \(\n        \^\nSyntaxError: .*\n$',
        result.errors,
    )


def test_a_report_of_any_letters_in_any_locale():
    script = "import sys\nprint(ascii(sys.argv[1:]))\nraise ValueError('\u00e9 \\udcff')\n"
    locale = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    with script_file("") as path:
        path.write_text(script, encoding="utf-8")
        result = job("\u00e9", "\udcff", ":", "no-such-program", env=locale, script=path)
    assert result.status != 0
    assert result.output.splitlines()[0] == r"['\udcc3\udca9', '\udcff', ':', 'no-such-program']"
    assert result.errors.rstrip().splitlines()[-1] in (r"ValueError: \xe9 \udcff", r"ValueError: é \udcff")


def test_an_injected_kill_is_not_taken_for_want_of_memory():
    fault = "kill replica 1 at step 1"
    result = job("none", options=["--inject", fault], env={"DISTOPT_KERNELS": "reference"})
    assert result.status != 0
    last = result.errors.rstrip().splitlines()[-1]
    assert re.fullmatch(
        r"distopt run: replica 1 \(pid \d+ on .*\) was killed by signal 9 \(SIGKILL\), as --inject asked for: "
        "'kill replica 1 at step 1'",
        last,
    )


def test_mpirun_without_an_mpi_library_names_the_cure(tmp_path):
    command = [str(mpirun().path), "-n", "1", sys.executable, "-c"]
    script = "import distopt; distopt.num_replicas()"
    result = run([*command, script], env={"MPI4PY_LIBMPI": str(tmp_path / "libmpi.so")})
    assert result.status != 0
    assert (
        "DistoptError: mpi4py finds no MPI library: install one in this environment (pip install mpich)" in result.text
    )
