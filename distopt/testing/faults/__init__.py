"""Faults on purpose: ``inject`` makes faults happen that sentences or ``Fault`` objects describe."""

from distopt.testing.faults.injection import Injection, inject
from distopt.testing.faults.kinds import Fault, InjectedError

__all__ = ["Fault", "InjectedError", "Injection", "inject"]
