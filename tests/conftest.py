"""What holds for every test: who needs root, how to do without it, and that no skip goes unnoticed.

tests/prog and tests/netns load programs into the kernel and make network namespaces, so they
need root. Without it they are skipped and counted. In CI, and whenever the tests run as root, a
skip fails the run unless its reason is in `ALLOWED_SKIPS`.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# Reason as pytest reports it -> why the test may be left out.
ALLOWED_SKIPS: dict[str, str] = {}

NEEDS_ROOT = ("prog", "netns")

_skipped: list[tuple[str, str]] = []  # test, reason


@pytest.fixture
def without_root() -> tuple[str, ...]:
    """What to put before a command so that it runs without root's rights.

    It may still read everything, so a checkout in a folder that only root may enter will do.
    """
    if os.geteuid() != 0:
        return ()
    reading = "-all,+dac_read_search"
    return (
        *("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"),
        *(f"--inh-caps={reading}", f"--ambient-caps={reading}", f"--bounding-set={reading}"),
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if os.geteuid() == 0:
        return
    folders = [Path(__file__).parent / name for name in NEEDS_ROOT]
    for item in items:
        if any(item.path.is_relative_to(folder) for folder in folders):
            item.add_marker(pytest.mark.skip(reason="needs root: run make test"))


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    _note(report)


def pytest_collectreport(report: pytest.CollectReport) -> None:
    _note(report)


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    if _refused() and session.exitstatus in (
        pytest.ExitCode.OK,
        pytest.ExitCode.NO_TESTS_COLLECTED,
    ):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for test, reason in _refused():
        terminalreporter.write_line(f"SKIP NOT ALLOWED {test}: {reason}", red=True)


def _note(report: pytest.TestReport | pytest.CollectReport) -> None:
    """Remember a skip; an expected failure counts as one."""
    if not report.skipped:
        return
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    _skipped.append((report.nodeid, getattr(report, "wasxfail", reason).removeprefix("Skipped: ")))


def _refused() -> list[tuple[str, str]]:
    """The skips that fail this run."""
    if os.environ.get("CI") != "true" and os.geteuid() != 0:
        return []
    return [(test, reason) for test, reason in _skipped if reason not in ALLOWED_SKIPS]
