"""The command `sluice`: its commands, and the one place where errors become lines on stderr.

A command's module is imported only when the command runs (or its own help is asked for), so
`sluice --help` needs neither BCC nor the packages that read manifests.
"""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Any, NamedTuple, NoReturn

import click

from pyagent.errors import InvalidState, SluiceError

EXIT_REFUSED = 1
EXIT_USAGE = 2


class Registered(NamedTuple):
    """Where a command lives ("module:attribute") and its line in `sluice --help`."""

    target: str
    summary: str


# In the order in which `sluice --help` shows them.
COMMANDS = {
    "agent": Registered("pyagent.cli.agent:agent", "Run the node agent."),
    "check": Registered("pyagent.cli.check:check", "Say what this machine lacks, and its cost."),
    "status": Registered("pyagent.cli.status:status", "Say what runs here and what it has done."),
    "validate": Registered("pyagent.cli.validate:validate", "Check a directory of manifests."),
    "plan": Registered("pyagent.cli.plan:plan", "Show what a directory would change."),
    "cleanup": Registered("pyagent.cli.cleanup:cleanup", "Take away what the agent made."),
    "demo": Registered("pyagent.cli.demo:demo", "Show it at work in network namespaces."),
    "workload": Registered("pyagent.cli.workload:workload", "Show, add and delete workloads."),
    "identity": Registered("pyagent.cli.identity:identity", "Show the identities."),
    "policy": Registered("pyagent.cli.policy:policy", "Show the policy that is enforced."),
    "map": Registered("pyagent.cli.map:map_group", "Show what stands in the kernel's maps."),
    "proxy": Registered("pyagent.cli.proxy:proxy", "Show the tenants' proxies."),
}


class LazyGroup(click.Group):
    """A group whose commands stand in a table and are imported when they are needed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names, in the table's order."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one command; None, which click reports as a usage error, for an unknown name."""
        registered = COMMANDS.get(cmd_name)
        if registered is None:
            return None
        module, _, attribute = registered.target.partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands from the table alone, without importing any."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.summary) for name, entry in COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="sluice", message="%(prog)s %(version)s")
def sluice() -> None:
    """Run and inspect the Sluice node data plane.

    Layers 3 and 4 stay in the kernel; a connection that needs HTTP goes to its tenant's own
    Envoy. Listings take -o table|json|yaml. Exit status: 0 done, 1 refused or failed, 2 usage.
    """


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run one command and exit; without `arguments`, those of the process."""
    sys.exit(run(arguments))


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status, whatever happens in it."""
    try:
        status: Any = sluice.main(arguments, prog_name="sluice", standalone_mode=False)
        # Here, not at the interpreter's end, where a reader that has gone could not be handled.
        sys.stdout.flush()
    except BaseException as error:
        return _report(error)
    return status if isinstance(status, int) else 0


def _report(error: BaseException) -> int:
    """Write what became of the command to stderr and return the exit status for it."""
    if os.environ.get("SLUICE_DEBUG"):
        traceback.print_exception(error)
    match error:
        case SystemExit():
            return _after_exit(error)
        case BrokenPipeError():
            return _after_broken_pipe()
        case click.Abort() | KeyboardInterrupt():
            lines = ["interrupted"]
        case click.exceptions.NoArgsIsHelpError():
            error.show()
            return EXIT_USAGE
        case click.UsageError():
            _say([_usage(error)])
            return EXIT_USAGE
        case click.ClickException():
            lines = [error.format_message()]
        case InvalidState():
            lines = [str(problem) for problem in error.problems] or [str(error)]
        case _ if isinstance(error, _refusals()):
            lines = [str(error)]
        case _:
            lines = [
                f"internal error: {type(error).__name__}: {error}; "
                "run with SLUICE_DEBUG=1 for the traceback"
            ]
    _say(lines)
    return EXIT_REFUSED


def _refusals() -> tuple[type[Exception], ...]:
    """The errors whose text is meant for the user. (Imported late: `--help` needs none of it.)"""
    from l7proxy.errors import ProxyFailure

    return (SluiceError, ProxyFailure)


def _usage(error: click.UsageError) -> str:
    """One line for a usage error: what is wrong, and where the help is."""
    command = error.ctx.command_path if error.ctx else "sluice"
    return f"{error.format_message().rstrip('.')}: see '{command} --help'"


def _say(lines: Sequence[str]) -> None:
    for line in lines:
        click.echo(f"sluice: {' '.join(line.split())}", err=True)


def _after_exit(error: SystemExit) -> int:
    """A command that ended by itself; click too exits so when the output's reader has gone."""
    return error.code if isinstance(error.code, int) else 0 if error.code is None else EXIT_REFUSED


def _after_broken_pipe() -> int:
    """Say nothing to a reader that has gone, and keep the interpreter's last flush quiet."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return EXIT_REFUSED
