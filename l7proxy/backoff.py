"""How long to wait before a proxy is started again. Pure; used by `supervisor`."""

from __future__ import annotations

FIRST = 0.1
LONGEST = 30.0
HEALTHY = 30.0
"""Seconds of readiness after which earlier failures are forgotten."""


def failures_after(failures: int, healthy: float) -> int:
    """Failures in a row once a proxy that was ready for `healthy` seconds has died."""
    return 1 if healthy >= HEALTHY else failures + 1


def delay(failures: int) -> float:
    """Seconds to wait after so many failures in a row: at once, then 0.1 s doubling to 30 s."""
    if failures <= 1:
        return 0.0
    return min(LONGEST, FIRST * 2.0 ** min(failures - 2, 16))
