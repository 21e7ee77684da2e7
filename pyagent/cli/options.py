"""Options that several commands share, so that they are spelled and explained once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from pyagent.cli.output import Format

Command = TypeVar("Command", bound=Callable[..., Any])

DEFAULT_CONFIG = Path("/etc/sluice/agent.yaml")


def output_option(command: Command) -> Command:
    """Add `-o table|json|yaml`; the command takes it as `output_format: Format`."""
    return click.option(
        "-o",
        "--output",
        "output_format",
        type=click.Choice([choice.value for choice in Format]),
        default=Format.TABLE.value,
        show_default=True,
        callback=lambda _context, _option, value: Format(value),
        help="How to print.",
    )(command)


def config_option(command: Command) -> Command:
    """Add `--config FILE`; the command takes it as `config: Path`, which may not exist."""
    return click.option(
        "--config",
        type=click.Path(path_type=Path, readable=False),  # told when it is read
        default=DEFAULT_CONFIG,
        show_default=True,
        envvar="SLUICE_CONFIG",
        show_envvar=True,
        metavar="FILE",
        help="The agent's configuration.",
    )(command)
