"""The first lines of a replica: ``distopt run`` and ``distopt verify`` start it as ``python -c`` with this text.

The replica knows how to end the job before the first line of the person's program runs, even where distopt is missing
on its machine: so the text travels with the command, and rests on the standard library alone.

Each argument comes with ``=`` before it: launchers take a colon that stands alone for the end of the program, and would
start what follows. The first argument is the module whose ``main`` runs the program; that gets the others.
"""

import sys


def _main(runner: str, *arguments: str) -> None:
    folder = [] if sys.flags.safe_path else [sys.path.pop(0)]  # that of ``-c``: no place to find distopt
    try:
        import importlib

        import distopt  # noqa: F401 (from here on it knows how this process may end)

        run = importlib.import_module(runner).main
    except BaseException:
        _end_job()
    sys.path[:0] = folder
    run(arguments)


def _end_job() -> None:
    """Report a failure, and end by a signal: without MPI nothing else makes every launcher end the others."""
    import contextlib
    import os
    import signal
    import traceback

    replica = os.environ.get("OMPI_COMM_WORLD_RANK") or os.environ.get("PMI_RANK") or "?"
    text = f"Replica {replica} failed:\n{traceback.format_exc()}".encode(errors="backslashreplace")
    with contextlib.suppress(OSError):
        os.write(2, b"\n" + text)
    if folder := os.environ.get("DISTOPT_RUN_DIR"):
        path = os.path.join(folder, f"failure-{replica}.txt")
        with contextlib.suppress(OSError), open(path, "wb") as report:  # ``distopt run`` prints it last
            report.write(text)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGTERM)
    os._exit(1)


if __name__ == "__main__":
    _main(*(argument[1:] for argument in sys.argv[1:]))
