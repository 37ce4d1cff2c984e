"""Tells which kernels this process uses, and for which CPU they are compiled, without loading a compiler."""

from __future__ import annotations

import functools
import hashlib
import platform
from pathlib import Path

from distopt.settings import KERNELS

_INSTRUCTION_SETS = (
    "sse",
    "ssse",
    "avx",
    "fma",
    "f16c",
    "bmi",
    "amx",
    "popcnt",
    "asimd",
    "sve",
    "fphp",
    "neon",
)


@functools.cache
def kernel_kind() -> str:
    """Return ``"fused"`` (compiled by Numba) or ``"reference"`` (NumPy), as ``DISTOPT_KERNELS`` says.

    Raises:
        InvalidArgumentError: the environment variable has another value.

    Example:
        >>> kernel_kind() in ("fused", "reference")
        True
    """
    return KERNELS.read()


@functools.cache
def cpu_target() -> str:
    """Return a name of the CPU. Machines with the same name can use the same compiled kernels.

    The name consists of vendor, family and model, and a digest of the instruction sets that a compiler may choose.

    Example:
        >>> cpu_target() == cpu_target()
        True
    """
    facts = _cpu_facts()
    names = [facts.get(key, "") for key in ("vendor_id", "CPU implementer", "cpu family", "model", "CPU part")]
    flags = sorted(set(facts.get("flags", facts.get("Features", "")).split()))
    digest = hashlib.sha256(" ".join(f for f in flags if f.startswith(_INSTRUCTION_SETS)).encode()).hexdigest()
    return "-".join([platform.machine(), *filter(None, names), digest[:8]])


def _cpu_facts() -> dict[str, str]:
    """Return the facts that Linux tells about the first CPU; on other systems those that Python knows."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return {"vendor_id": platform.processor()}
    lines = (line.partition(":") for line in text.split("\n\n")[0].splitlines())
    return {key.strip(): value.strip() for key, _, value in lines}
