"""The schedule of restarts."""

from __future__ import annotations

from l7proxy.backoff import delay, failures_after


def schedule(lives: list[float]) -> list[float]:
    """The waits after lives of so many seconds of readiness."""
    failures, waits = 0, []
    for healthy in lives:
        failures = failures_after(failures, healthy)
        waits.append(delay(failures, healthy))
    return waits


def test_at_once_then_doubling_to_thirty_seconds() -> None:
    waits = schedule([0.0] * 13)
    assert waits == [0, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30, 30, 30]
    assert delay(10**6, 0.0) == 30


def test_one_that_has_served_is_back_soon() -> None:
    assert schedule([0.1] * 6) == [0, 0.1, 0.2, 0.4, 0.5, 0.5]
    assert schedule([0, 0, 0, 0, 0, 0.1, 0]) == [0, 0.1, 0.2, 0.4, 0.8, 0.5, 3.2]


def test_a_healthy_life_starts_it_afresh() -> None:
    assert schedule([0, 0, 0, 0, 29.9, 30, 0, 0]) == [0, 0.1, 0.2, 0.4, 0.5, 0, 0.1, 0.2]
