"""`sluice demo`: two tenants in network namespaces, the real agent, and a table of what happened.

What is tried and compared is in `pyagent.demo`; here are the options, the progress, the table,
and what to type when it is kept.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pyagent.cli.output import Format, emit
from pyagent.errors import SluiceError
from pyagent.kernel.probe import require

if TYPE_CHECKING:
    from pyagent.demo.report import Row
    from pyagent.demo.world import World

_COLUMNS = ("", "who", "to_whom", "what", "expected", "seen", "why", "time")
_TOOLS = {"curl": "curl", "nsenter": "util-linux"}
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@click.command()
@click.option("--keep", is_flag=True, help="Leave everything running, and say what to type.")
@click.option("--clean", is_flag=True, help="End a kept demo, or what is left of another one.")
@click.option(
    "--manifests",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    metavar="DIR",
    help="Your own variation of the examples: same workloads, other policies.",
)
def demo(keep: bool, clean: bool, manifests: Path | None) -> None:
    """Show Sluice at work, on this machine, in network namespaces of its own.

    It makes a node with the workloads of two tenants, starts the real agent on the manifests of
    examples/, sends real requests, kills the agent in the middle of a download, and prints what
    was expected of each attempt, what was seen, and why. Then everything is taken away again.
    """
    if clean and (keep or manifests):
        raise click.UsageError("--clean goes with no other option")
    require()
    _require_tools()
    from pyagent.demo import remains

    progress = _Progress()
    with _interruptible(), remains.claim(), progress:
        if clean:
            if not remains.found():
                click.echo("there is no demo to end")
            _clear(progress)
            return
        remains.refuse_kept()
        wrong = _run(manifests, keep, progress)
    if wrong:
        raise SluiceError(f"not as expected: {wrong} of the rows above, marked WRONG")


def _require_tools() -> None:
    for tool, package in _TOOLS.items():
        if shutil.which(tool) is None:
            raise SluiceError(f"{tool} is not installed: apt-get install {package}")
    if importlib.util.find_spec("hypercorn") is None:
        raise SluiceError("the Python package hypercorn is not installed: pip install hypercorn")


def _run(manifests: Path | None, keep: bool, progress: _Progress) -> int:
    """The whole demo; how many rows are wrong. Nothing is left but what is to be kept."""
    from pyagent.demo import places, remains
    from pyagent.demo.world import World

    world = World(manifests or places.examples())
    if remains.found():
        progress.step("clearing away what is left of an earlier demo")
        remains.clear(progress.step)
    kept = False
    try:
        rows = _play(world, progress)
        _print_table(rows)
        _show_command("status")
        _show_command("map", "dump", "policy")
        if keep:
            remains.keep()
            kept = True
    except BaseException:
        progress.failed()
        raise
    finally:
        if not kept:
            _clear(progress)
    if kept:
        click.echo(_what_to_type(world))
    return sum(not row.ok for row in rows)


def _play(world: World, progress: _Progress) -> list[Row]:
    """Builds the world and shows everything there is to see."""
    from pyagent.demo.run import show

    count = len(world.namespaces)
    progress.step(f"network namespaces: the node and {count} workloads")
    world.build()
    progress.step("starting the servers and the agent (it compiles its programs)")
    world.start_servers()
    state = world.start_agent()
    world.await_servers()
    counts = ", ".join(f"{number} {what}" for what, number in state.counts.items())
    progress.step(f"in force: {counts}")
    rows = show(world, progress.step)
    progress.done()
    return rows


def _clear(progress: _Progress) -> None:
    """Takes everything away; no signal stops it half-way."""
    from pyagent.demo import remains

    _ignore_signals()
    remains.clear(progress.step)
    progress.done()


def _ignore_signals() -> None:
    for number in _SIGNALS:
        signal.signal(number, lambda *_: None)  # unlike SIG_IGN, not inherited by what is run


@contextmanager
def _interruptible() -> Iterator[None]:
    """Any of the usual signals ends the demo as Ctrl-C does: with a clean-up.

    The netlink library forks helpers, which inherit the handler, and ends them by SIGTERM: they
    must not come back here and clear away what is in use.
    """
    owner = os.getpid()

    def interrupt(*_: object) -> None:
        if os.getpid() != owner:
            os._exit(1)
        _ignore_signals()  # once is enough: the clean-up is on its way
        raise KeyboardInterrupt

    before = {number: signal.getsignal(number) for number in _SIGNALS}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:  # as nohup has it
            signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Progress:
    """Names each step on stderr as it happens; on a terminal with how long it took."""

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()
        self._begun = 0.0
        self._step = ""
        self._status: Any = None

    def __enter__(self) -> _Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self.failed()

    def step(self, text: str) -> None:
        """The step before is done, this one begins."""
        self.done()
        if not self._terminal:
            click.echo(text, err=True)
            return
        from rich.console import Console
        from rich.markup import escape

        self._step, self._begun = text, time.monotonic()
        self._status = Console(stderr=True, highlight=False).status(escape(text))
        self._status.start()

    def done(self) -> None:
        """The step is done."""
        self._end("✓")

    def failed(self) -> None:
        """The step, if there is one, did not come to its end."""
        self._end("✗")

    def _end(self, mark: str) -> None:
        if self._status is not None:
            self._status.stop()
            self._status = None
            taken = time.monotonic() - self._begun
            click.echo(f"{mark} {self._step} ({taken:.1f} s)", err=True)


def _print_table(rows: Sequence[Row]) -> None:
    """Every attempt; what went wrong is marked in words as well as in red."""
    cells = [
        {
            "": "ok" if row.ok else "WRONG",
            "time": _milliseconds(row.seconds),
            "to_whom": row.whom,
            **asdict(row),
        }
        for row in rows
    ]
    if not sys.stdout.isatty():
        emit(cells, _COLUMNS, Format.TABLE)
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in _COLUMNS:
        table.add_column(column.replace("_", " "), overflow="fold")
    for row, line in zip(rows, cells, strict=True):
        style = "" if row.ok else "bold red"
        table.add_row(*(Text(str(line[column]), style) for column in _COLUMNS))
    Console(highlight=False).print(table)


def _milliseconds(seconds: float) -> str:
    return f"{1000 * seconds:.{1 if seconds < 0.01 else 0}f} ms"


def _show_command(*arguments: str) -> None:
    """Runs a command of ours as anybody would, in the node's namespace."""
    from pyagent.demo import places

    click.echo(f"\n# sluice {' '.join(arguments)}")
    sys.stdout.flush()
    command = places.inside(places.NODE_NAMESPACE, places.sluice(), *arguments)
    if subprocess.run(command, env=places.environment(), check=False, timeout=60).returncode:
        raise SluiceError(f"sluice {' '.join(arguments)} has failed")


def _what_to_type(world: World) -> str:
    """What a user can do with a demo that was kept."""
    from pyagent.demo import places
    from pyagent.demo.attempts import ATTEMPTS, Outcome, Way, curl_protocol, url

    lines = ["", "The demo runs on. As root:", f"  export SLUICE_CONFIG={places.CONFIG}"]
    sluice = places.sluice()
    lines += [f"  {sluice} {words}" for words in ("status", "workload list", "proxy list")]
    for attempt in ATTEMPTS:
        if attempt.way.is_http and attempt.version == (6 if attempt.way is Way.HTTP2 else 4):
            destination = world.addresses[attempt.whom][attempt.version]
            address = f"'{url(destination, attempt.port, '/')}'"
            command = ("curl", curl_protocol(attempt.way), "-m", "1", address)
            told = "" if attempt.expected is Outcome.HANDED_OFF else f"  # {attempt.expected.value}"
            namespace = world.namespace(attempt.who)
            lines.append(f"  {' '.join(places.inside(namespace, *command))}{told}")
    metrics = places.inside(places.NODE_NAMESPACE, "curl", f"http://{places.METRICS}/metrics")
    lines += [
        f"  {' '.join(metrics)}",
        f"  less {places.AGENT_LOG}",
        f"Change the manifests in {places.MANIFESTS}: each change is in force at once.",
        f"End it with: {sluice} demo --clean",
    ]
    return "\n".join(lines)
