"""Faults on purpose: ``inject`` makes them happen, sentences and ``Fault`` objects say which."""

from distopt.testing.faults.injection import Injection, inject
from distopt.testing.faults.kinds import Fault, InjectedError

__all__ = ["Fault", "InjectedError", "Injection", "inject"]
