"""The frame of the command line: exit statuses, one line for each error, quick help."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from types import ModuleType

import click
import pytest

from l7proxy.errors import ProxyFailure
from pyagent.cli import main as frame
from pyagent.errors import InvalidState, KernelError, Problem

SLUICE = (sys.executable, "-c", "from pyagent.cli.main import main; main()")


def sluice(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*SLUICE, *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.fixture
def raising(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], int]:
    """Run a command that raises; returns its exit status."""
    monkeypatch.delenv("SLUICE_DEBUG", raising=False)

    def run(error: BaseException) -> int:
        @click.command()
        def fail() -> None:
            raise error

        commands = ModuleType("commands_of_this_test")
        commands.__dict__["fail"] = fail
        monkeypatch.setitem(sys.modules, commands.__name__, commands)
        registered = frame.Registered(f"{commands.__name__}:fail", "Fail.")
        monkeypatch.setitem(frame.COMMANDS, "fail", registered)
        return frame.run(["fail"])

    return run


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (KernelError("no BTF"), "sluice: no BTF"),
        (ProxyFailure("shop: Envoy\ndoes not start"), "sluice: shop: Envoy does not start"),
        (click.ClickException("cannot"), "sluice: cannot"),
        (
            ValueError("odd"),
            "sluice: internal error: ValueError: odd; run with SLUICE_DEBUG=1 for the traceback",
        ),
    ],
)
def test_an_error_is_one_line_and_exit_1(
    error: Exception,
    line: str,
    raising: Callable[[BaseException], int],
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert raising(error) == 1
    assert capsys.readouterr() == ("", line + "\n")


def test_every_problem_of_an_invalid_state_has_its_line(
    raising: Callable[[BaseException], int], capsys: pytest.CaptureFixture[str]
) -> None:
    problems = (Problem("a.yaml", 1, "spec.x", "unknown field"), Problem("b.yaml", 2, "", "empty"))
    assert raising(InvalidState(problems)) == 1
    assert capsys.readouterr().err.splitlines() == [
        "sluice: a.yaml: document 1: spec.x: unknown field",
        "sluice: b.yaml: document 2: empty",
    ]


def test_interrupt_is_said_and_exits_1(
    raising: Callable[[BaseException], int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert raising(KeyboardInterrupt()) == 1
    assert capsys.readouterr().err.split("\n")[-2:] == ["sluice: interrupted", ""]


def test_debug_shows_the_traceback(
    raising: Callable[[BaseException], int],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("SLUICE_DEBUG", "1")
    assert raising(ValueError("odd")) == 1
    assert "Traceback (most recent call last)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["nonsense"], "sluice: No such command 'nonsense': see 'sluice --help'\n"),
        (["check", "--bad"], "sluice: No such option '--bad': see 'sluice check --help'\n"),
        (["validate"], "sluice: Missing argument 'DIR': see 'sluice validate --help'\n"),
    ],
)
def test_usage_error_is_one_line_and_exit_2(arguments: list[str], line: str) -> None:
    done = sluice(*arguments)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", line)


def test_without_arguments_the_help_is_shown_and_exit_2() -> None:
    done = sluice()
    assert done.returncode == 2
    assert done.stderr.startswith("Usage: sluice [OPTIONS] COMMAND [ARGS]...")


def test_help_names_every_command_with_its_summary() -> None:
    done = sluice("--help")
    assert (done.returncode, done.stderr) == (0, "")
    for name, entry in frame.COMMANDS.items():
        assert any(
            line.split() == [name, *entry.summary.split()] for line in done.stdout.split("\n")
        )


def test_every_registered_command_is_there_and_has_help() -> None:
    for name in frame.COMMANDS:
        done = sluice(name, "--help")
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith(f"Usage: sluice {name}")


def test_help_is_quick_and_imports_nothing_heavy() -> None:
    code = (
        "import sys; from pyagent.cli.main import run; run(['--help']);"
        "print(sorted({'bcc', 'pydantic', 'yaml', 'rich', 'pyroute2'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "[]"
    assert min(_seconds("--help") for _ in range(5)) < 0.4  # 0.15 s on a machine with nothing to do


def _seconds(*arguments: str) -> float:
    started = time.monotonic()
    assert sluice(*arguments).returncode == 0
    return time.monotonic() - started


def test_version_is_that_of_the_distribution() -> None:
    assert sluice("--version").stdout == f"sluice {version('sluice')}\n"


# A command that leaves what it printed in Python's buffer.
BUFFERED = """
import click
from pyagent.cli import main as frame

@click.command()
def talk(): print("hello")

frame.COMMANDS["talk"] = frame.Registered("__main__:talk", "Talk.")
frame.main(["talk"])
"""


@pytest.mark.parametrize("command", [(*SLUICE, "--help"), (sys.executable, "-c", BUFFERED)])
def test_a_reader_that_goes_away_gets_no_traceback(command: tuple[str, ...]) -> None:
    # The reading end is closed before the command writes, so its first flush fails.
    read, write = os.pipe()
    os.close(read)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    done = subprocess.run(
        command, env=environment, stdout=write, stderr=subprocess.PIPE, text=True, timeout=60
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (1, "")
