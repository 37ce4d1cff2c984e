"""Progress and results, printed by replica 0 only."""

from distopt.telemetry.progress import Progress
from distopt.telemetry.summary import summary

__all__ = ["Progress", "summary"]
