"""`sluice status`: is an agent running, what is in force, what has become of packets.

It reads; `status_lines` puts what was read into words for a terminal.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from pyagent.cli.decode import number_in
from pyagent.cli.map import count
from pyagent.cli.node import Names, NothingPinned, names_of, open_tables, read_config
from pyagent.cli.options import config_option, output_option
from pyagent.cli.output import Format, emit_value
from pyagent.cli.status_lines import lines_of
from pyagent.config import AgentConfig
from pyagent.errors import KernelError, SluiceError
from pyagent.kernel import abi
from pyagent.kernel.tables import Table, Tables
from pyagent.state import NodeState, agent_pid, read_state

_PRESSING = 50.0  # per cent of a map's capacity


@click.command()
@config_option
@output_option
def status(config: Path, output_format: Format) -> None:
    """Say whether the agent runs, what is in force here, and what has become of packets.

    It works while no agent runs, too: the kernel goes on with what is in force.
    """
    settings = read_config(config)
    pid = agent_pid(settings.run_dir)
    kernel_error = state_error = None
    state, kernel = None, None
    try:
        state = read_state(settings.state_dir)
    except SluiceError as error:
        state_error = str(error)
    try:
        kernel = _kernel(settings.state_dir, names_of(state))
    except NothingPinned:
        pass  # as after a reboot; what was in force is still told
    except KernelError as error:
        kernel_error = str(error)
    if state is None and kernel is None:
        raise SluiceError(kernel_error or state_error or _nothing(settings, pid))
    facts = {
        "agent": {"running": pid is not None, "pid": pid},
        "in_force": None if state is None else _in_force(state),
        "kernel": kernel,
    }
    if output_format is Format.TABLE:
        click.echo("\n".join(lines_of(facts)))
    else:
        emit_value(facts, output_format)
    if state_error or kernel_error:
        raise SluiceError(str(state_error or kernel_error))


def _nothing(settings: AgentConfig, pid: int | None) -> str:
    if pid is not None:
        return f"the agent (pid {pid}) is starting: nothing is in force yet"
    return (
        f"no agent has ever run here with stateDir {settings.state_dir}: "
        "start one with sluice agent"
    )


def _in_force(state: NodeState) -> dict[str, Any]:
    """What the last agent left on disk; times are seconds since the epoch."""
    return {
        "node": state.node,
        "version": state.version,
        "agent_started": state.started,
        "applied": state.applied or None,
        "apply_seconds": state.apply_seconds,
        "counts": state.counts,
        "problems": state.problems,
    }


def _kernel(state_dir: Path, names: Names) -> dict[str, Any]:
    """What the maps say now."""
    with open_tables(state_dir) as tables:
        settings = tables["settings"].get({"index": 0}) or {}
        entries = {name: count(tables[name]) for name in abi.load().maps}
        stats = _stats(tables["stats"])
        return {
            "policy_revision": settings.get("revision", 0),
            "flows": entries["conntrack"],
            **_outcomes(tables["counters"]),
            "events_lost": stats["events_lost"],
            "stats": stats,
            "pressure": _pressure(tables, entries),
            "proxies": _proxies(tables["tenants"], names),
        }


def _stats(table: Table) -> dict[str, int]:
    name_of = abi.load().name_of
    return {
        name_of("STATS", number_in(key, "index")): number_in(value, "value")
        for key, value in table.records()
    }


def _outcomes(table: Table) -> dict[str, Any]:
    """Packets and bytes that were forwarded, and that were dropped, by reason."""
    reasons: dict[str, dict[str, int]] = {}
    for key, value in table.records():
        name = abi.load().name_of("DROP_REASONS", number_in(key, "reason"))
        sums = reasons.setdefault(name, {"packets": 0, "bytes": 0})
        for unit in sums:
            sums[unit] += number_in(value, unit)
    forwarded = reasons.pop("none", {"packets": 0, "bytes": 0})
    by_packets = sorted(reasons.items(), key=lambda entry: (-entry[1]["packets"], entry[0]))
    return {
        "forwarded": forwarded,
        "dropped": {
            "packets": sum(sums["packets"] for sums in reasons.values()),
            "bytes": sum(sums["bytes"] for sums in reasons.values()),
            "by_reason": dict(by_packets),
        },
    }


def _pressure(tables: Tables, entries: dict[str, int]) -> list[dict[str, Any]]:
    """The maps that are more than half full; an array is always full."""
    full = {
        name: 100.0 * number / tables[name].capacity
        for name, number in entries.items()
        if not tables[name].layout.type.endswith("array")
    }
    return [
        {
            "map": name,
            "entries": entries[name],
            "capacity": tables[name].capacity,
            "percent": round(percent, 1),
        }
        for name, percent in full.items()
        if percent > _PRESSING
    ]


def _proxies(table: Table, names: Names) -> list[dict[str, Any]]:
    """Each tenant that the kernel knows; `interface` 0: it has no proxy."""
    modes = {abi.load().constants["FAILURE_OPEN"]: "open"}
    entries = sorted(table.records(), key=lambda entry: number_in(entry[0], "tenant"))
    return [
        {
            "tenant": names.tenants.get(number_in(key, "tenant")),
            "number": key["tenant"],
            "interface": value["proxy"],
            "ready": bool(value["ready"]),
            "failure_mode": modes.get(number_in(value, "failure_mode"), "closed"),
        }
        for key, value in entries
    ]
