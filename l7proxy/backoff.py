"""How long to wait before a proxy is started again. Pure; used by `supervisor`."""

from __future__ import annotations

FIRST = 0.1
LONGEST = 30.0
LONGEST_AFTER_SERVICE = 0.5
"""A proxy that has served is missed: it is back soon, however often it dies."""

HEALTHY = 30.0
"""Seconds of readiness after which earlier failures are forgotten."""


def failures_after(failures: int, healthy: float) -> int:
    """Failures in a row once a proxy that was ready for `healthy` seconds has died."""
    return 1 if healthy >= HEALTHY else failures + 1


def delay(failures: int, healthy: float) -> float:
    """Seconds to wait after so many failures in a row, when the last life had `healthy` seconds of
    readiness: none, then 0.1 s doubling to 30 s, or to half a second if it had any."""
    if failures <= 1:
        return 0.0
    longest = LONGEST_AFTER_SERVICE if healthy > 0 else LONGEST
    return min(longest, FIRST * 2.0 ** min(failures - 2, 16))
