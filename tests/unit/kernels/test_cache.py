"""The cache of kernels: damaged files, directories and locks of others, and none of their code is run."""

from __future__ import annotations

import fcntl
import io
import os
import pickle
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numba
import pytest
from support import run

from distopt.kernels import cache
from distopt.kernels.compiler import compile_kernel

SOURCE = "def add_one(x):\n    return x + 1\n"
SIGNATURE = numba.float64(numba.float64)
KINDS = ["*.py", "*.sha256", "__pycache__/*.nbi", "__pycache__/*.nbc"]
NOBODY = 65534

PROGRAM = f"""
import numba
from distopt.kernels.compiler import compile_kernel
for number in range(2):
    kernel = compile_kernel("add_one", {SOURCE!r} + "#" * number, numba.float64(numba.float64))
    assert kernel(1.0) == 2.0
print("right")
"""


class Planted:
    """What somebody else leaves in the place of a kernel: code that runs when it is read."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str, int]]:
        return os.mkdir, (str(self.trace), 0o777)


def kernel_is_right() -> bool:
    return compile_kernel("add_one", SOURCE, SIGNATURE)(1.0) == 2.0


@pytest.fixture
def directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A cache with one kernel in it."""
    monkeypatch.setenv("DISTOPT_CACHE_DIR", str(tmp_path / "cache"))
    assert kernel_is_right()
    return cache.cache_directory()


def stem_of(directory: Path) -> str:
    return next(directory.glob("*.py")).stem


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[: len(content) // 2],
        lambda content: content[:-1] + bytes([content[-1] ^ 1]),
        lambda content: pickle.dumps("0.1") + pickle.dumps(Planted(Path("/proc/none"))),  # of another Numba
        None,
    ],
    ids=["empty", "cut", "flipped", "strange", "gone"],
)
def test_a_damaged_kernel_is_compiled_again(directory: Path, kind: str, damage: Callable[[bytes], bytes]) -> None:
    (file,) = directory.glob(kind)
    if damage is None:
        file.unlink()
    else:
        file.write_bytes(damage(file.read_bytes()))
    assert kernel_is_right()
    assert cache.is_stored(directory, stem_of(directory), SOURCE)
    assert sorted(path.suffix for path in directory.rglob("*.*") if path.is_file()) == [
        ".nbc",
        ".nbi",
        ".py",
        ".sha256",
    ]


def test_a_process_survives_a_cache_of_empty_files(directory: Path) -> None:
    for path in filter(Path.is_file, directory.rglob("*")):
        path.write_bytes(b"")
    result = run([sys.executable, "-c", PROGRAM], env={"DISTOPT_CACHE_DIR": str(directory.parent)})
    assert (result.status, result.output) == (0, "right\n"), result.text


def plant(directory: Path, trace: Path) -> None:
    for path in (directory / "__pycache__").iterdir():
        path.write_bytes(pickle.dumps(Planted(trace)))
    cache.end_storing(directory, stem_of(directory))


def test_what_is_planted_would_be_run(directory: Path, tmp_path: Path) -> None:
    """In a cache of one's own: so the tests below show something."""
    plant(directory, tmp_path / "trace")
    assert kernel_is_right()
    assert (tmp_path / "trace").exists()


def give_away(path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give a directory to another user")
    os.chown(path, NOBODY, NOBODY)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda directory: directory.chmod(0o777), r"others may write to .*numba.* \(mode 0777\)"),
        (lambda directory: directory.chmod(0o775), r"others may write to .*numba.* \(mode 0775\)"),
        (lambda directory: directory.parent.chmod(0o777), r"others may write to .*cache \(mode 0777\)"),
        (give_away, r"numba\S* belongs to user 65534"),
        (lambda directory: give_away(directory.parent), r"cache belongs to user 65534"),
    ],
    ids=["mode", "group", "root", "owner", "owner of the root"],
)
def test_nothing_is_run_from_where_others_can_write(
    directory: Path, tmp_path: Path, spoil: Callable[[Path], None], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    plant(directory, tmp_path / "trace")
    spoil(directory)
    for _ in range(2):
        assert kernel_is_right()
    assert not (tmp_path / "trace").exists()
    text = capsys.readouterr().err
    assert text.count("compiled kernels can't be kept") == 1
    assert re.search(reason, text), text
    assert "set DISTOPT_CACHE_DIR" in text


@pytest.fixture
def public_folder() -> Iterator[Path]:
    """A folder that all users reach: those of pytest, and TMPDIR under xdist, are for one."""
    folder = Path(tempfile.mkdtemp(prefix="distopt-test-", dir="/tmp"))
    folder.chmod(0o1777)
    yield folder
    shutil.rmtree(folder)


def test_an_ordinary_user_runs_nothing_of_another_user(public_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        pytest.skip("only root can start a process as another user, by setpriv")
    other = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", sys.executable]
    monkeypatch.setenv("DISTOPT_CACHE_DIR", str(public_folder / "cache"))
    asked = run([*other, "-c", "from distopt.kernels.cache import cache_directory; print(cache_directory())"])
    if asked.status != 0:
        pytest.skip("other users can't read this environment")
    assert kernel_is_right()
    plant(cache.cache_directory(), public_folder / "trace")
    for path in (public_folder / "cache").rglob("*"):
        path.chmod(0o755)
    (public_folder / "cache").chmod(0o755)
    cache.cache_directory().rename(asked.output.strip())  # their Python may be another
    result = run([*other, "-c", PROGRAM], env={"DISTOPT_CACHE_DIR": str(public_folder / "cache")})
    assert (result.status, result.output) == (0, "right\n"), result.text
    assert not (public_folder / "trace").exists()
    assert "belongs to user 0, and this process runs as user 65534" in result.errors


def test_a_sticky_directory_of_all_users_serves(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tmp_path.chmod(0o1777)
    monkeypatch.setenv("DISTOPT_CACHE_DIR", str(tmp_path))
    assert kernel_is_right()
    assert cache.cache_directory().stat().st_mode & 0o777 == 0o700
    assert cache.is_stored(cache.cache_directory(), stem_of(cache.cache_directory()), SOURCE)


def test_a_lock_that_is_a_symbolic_link_keeps_its_target(
    directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "target"
    target.write_text("precious")
    (directory / "lock").unlink()
    (directory / "lock").symlink_to(target)
    assert kernel_is_right()
    assert target.read_text() == "precious"
    assert "lock is a symbolic link: remove it" in capsys.readouterr().err


@pytest.fixture
def held(directory: Path) -> Iterator[Path]:
    """The cache, while somebody keeps its lock: a lock of another open file is another holder's."""
    with open(directory / "lock") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield directory


def test_a_lock_that_is_never_freed_is_waited_for_once(
    held: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cache, "LOCK_SECONDS", 0.1)
    assert kernel_is_right()
    text = capsys.readouterr().err
    assert f"other processes have kept {held}/lock locked" in text
    assert "compiling them for this process only" in text
    monkeypatch.setattr(cache, "LOCK_SECONDS", 3600.0)
    assert kernel_is_right()
    assert capsys.readouterr().err == ""


def test_a_forked_child_does_not_keep_the_lock(tmp_path: Path) -> None:
    code = f"""
import fcntl, os, signal
from pathlib import Path
from distopt.kernels import cache
cache.LOCK_SECONDS = 0.1
with cache.locked(Path({str(tmp_path)!r}), fcntl.LOCK_EX):
    child = os.fork()
    if child == 0:
        signal.pause()
try:
    with cache.locked(Path({str(tmp_path)!r}), fcntl.LOCK_EX):
        print("free")
finally:
    os.kill(child, signal.SIGKILL)
"""
    result = run([sys.executable, "-c", code])
    assert (result.status, result.output) == (0, "free\n"), result.text


def test_another_cache_of_numba_is_not_used(directory: Path, tmp_path: Path) -> None:
    cold = {"DISTOPT_CACHE_DIR": str(tmp_path / "cold"), "NUMBA_CACHE_DIR": str(tmp_path / "other")}
    result = run([sys.executable, "-c", PROGRAM], env=cold)
    assert (result.status, result.output) == (0, "right\n"), result.text
    assert not (tmp_path / "other").exists()
    assert len([*(tmp_path / "cold").rglob("*.nbc")]) == 2


@pytest.mark.parametrize("is_closed", [False, True])
def test_a_missing_standard_error_stops_nothing(is_closed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO() if is_closed else None
    if stream is not None:
        stream.close()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("DISTOPT_CACHE_DIR", f"/dev/null/{is_closed}")
    assert kernel_is_right()


def test_a_full_standard_error_stops_nothing() -> None:
    start = ["sh", "-c", 'exec "$0" "$@" 2>/dev/full', sys.executable, "-c", PROGRAM]
    assert run(start, env={"DISTOPT_CACHE_DIR": "/dev/null/cache"}).output == "right\n"
