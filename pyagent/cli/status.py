"""`sluice status`: is an agent running, what is in force, and what the kernel does with packets."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from pyagent.cli.map import count
from pyagent.cli.node import NothingPinned, Names, names_of, open_tables, read_config
from pyagent.cli.options import config_option, output_option
from pyagent.cli.output import Format, emit_value
from pyagent.config import AgentConfig
from pyagent.errors import KernelError, SluiceError
from pyagent.kernel import abi
from pyagent.kernel.tables import Table, Tables
from pyagent.state import NodeState, agent_pid, read_state

Facts = dict[str, Any]

_PRESSING = 50  # per cent of a map's capacity


@click.command()
@config_option
@output_option
def status(config: Path, output_format: Format) -> None:
    """Say whether the agent runs, what is in force on this node, and what became of packets.

    It works while no agent runs: the kernel goes on with what is in force.
    """
    settings = read_config(config)
    state, state_error = _read_state(settings)
    kernel, kernel_error = _read_kernel(settings, names_of(state))
    facts = {
        "agent": _agent(settings, state),
        "in_force": None if state is None else _in_force(state),
        "state_error": state_error,
        "kernel": kernel,
        "kernel_error": kernel_error,
    }
    if state is None and kernel is None:
        raise SluiceError(
            state_error
            or kernel_error
            or f"no agent has ever run here with stateDir {settings.state_dir}: start sluice agent"
        )
    if output_format is Format.TABLE:
        for line in _lines(facts):
            click.echo(line)
    else:
        emit_value(facts, output_format)
    if state_error or kernel_error:
        raise SluiceError(state_error or kernel_error)
