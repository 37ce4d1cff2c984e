"""Progress and results, printed by replica 0 only; late replicas; receipts of runs, and the point where two differ."""

from distopt.telemetry.progress import Progress
from distopt.telemetry.receipt import Receipt
from distopt.telemetry.stragglers import Lateness, stragglers
from distopt.telemetry.summary import summary

__all__ = ["Lateness", "Progress", "Receipt", "stragglers", "summary"]


def __dir__() -> list[str]:
    return __all__
