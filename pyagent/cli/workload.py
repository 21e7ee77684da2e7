"""`sluice workload list|get|add|delete`: the workloads in force, and their manifests.

`list` and `get` tell what is in force on this node; `add` and `delete` change the directory that
the agent watches.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from ipaddress import ip_address
from pathlib import Path

import click

from pyagent.cli.decode import Row, number_in
from pyagent.cli.node import open_table, read_config, state_in_force
from pyagent.cli.options import config_option, output_option
from pyagent.cli.output import Format, emit, emit_value
from pyagent.cli.workload_files import add_workload, delete_workload
from pyagent.errors import KernelError, SluiceError
from pyagent.kernel import abi
from pyagent.manifests import names
from pyagent.model import Address, NamedPort, Origin, Protocol, Workload
from pyagent.state import NodeState, WorkloadState

Counters = dict[str, dict[str, int]]


@click.group()
def workload() -> None:
    """Show the workloads of this node; add and delete their manifests."""


@workload.command(name="list")
@config_option
@output_option
def list_workloads(config: Path, output_format: Format) -> None:
    """List the workloads in force.

    Packets are counted by identity: workloads with the same labels share their counters.
    """
    state_dir = read_config(config).state_dir
    state = state_in_force(state_dir)
    counters = _counters(state_dir)
    rows = [_row(entry, state, counters) for entry in state.workloads]
    if output_format is Format.TABLE:
        rows = [{**row, **_totals(row["identity_counters"])} for row in rows]
    columns = ("workload", "identity", "labels", "tenant", "interface", "addresses")
    emit(rows, (*columns, "forwarded", "dropped"), output_format)


@workload.command()
@click.argument("key", metavar="NS/NAME")
@config_option
@output_option
def get(key: str, config: Path, output_format: Format) -> None:
    """Show one workload in force."""
    state_dir = read_config(config).state_dir
    state = state_in_force(state_dir)
    for entry in state.workloads:
        if entry.key == key:
            emit_value(_row(entry, state, _counters(state_dir)), output_format)
            return
    raise SluiceError(f"no workload {key} is in force: see sluice workload list")


@workload.command()
@click.argument("key", metavar="NS/NAME")
@click.option(
    "--address",
    "addresses",
    metavar="ADDR...",
    multiple=True,
    required=True,
    help="An address of the workload; more may follow, or more --address.",
)
@click.option("--netns", metavar="PATH", help="Its network namespace; Sluice makes the interface.")
@click.option("--interface", metavar="IF", help="Its node-side interface, which is there already.")
@click.option("--label", "labels", metavar="K=V", multiple=True, help="A label; may be repeated.")
@click.option(
    "--port",
    "ports",
    metavar="NAME:PORT[/PROTOCOL]",
    multiple=True,
    help="A port that policies may name; may be repeated.",
)
@click.argument("more", metavar="", nargs=-1)
@config_option
def add(
    key: str,
    addresses: Sequence[str],
    netns: str | None,
    interface: str | None,
    labels: Sequence[str],
    ports: Sequence[str],
    more: Sequence[str],
    config: Path,
) -> None:
    """Write the manifest of a workload into the directory that the agent watches.

    Nothing is written when the workload is there already, or the directory would not be valid.
    """
    if (netns is None) == (interface is None):
        raise click.UsageError("give either --netns or --interface", click.get_current_context())
    namespace, name = _split(key)
    made = Workload(
        namespace=namespace,
        name=name,
        labels=_labels(labels),
        addresses=tuple(_address(text) for text in (*addresses, *more)),
        ports=tuple(_port(text) for text in ports),
        interface=interface,
        netns=netns,
        origin=Origin("", 1),
    )
    path = add_workload(read_config(config).source_directory, made)
    click.echo(f"{path}: written")


@workload.command()
@click.argument("key", metavar="NS/NAME")
@config_option
def delete(key: str, config: Path) -> None:
    """Remove the manifest of a workload, which must be alone in its file."""
    path = delete_workload(read_config(config).source_directory, key)
    click.echo(f"{path}: removed")


def _row(entry: WorkloadState, state: NodeState, counters: dict[int, Counters] | None) -> Row:
    """One workload; its counters are None when no maps are pinned."""
    fields = asdict(entry)
    return {
        "workload": fields.pop("key"),
        "identity": fields.pop("identity"),
        "labels": dict(entry.labels),
        "tenant": state.tenants.get(fields.pop("tenant")),
        **fields,
        "identity_counters": None if counters is None else counters.get(entry.identity, {}),
    }


def _counters(state_dir: Path) -> dict[int, Counters] | None:
    """Packets and bytes by identity, direction and what became of them; None without maps."""
    try:
        table = open_table(state_dir, "counters")
    except KernelError:
        return None
    found: defaultdict[int, Counters] = defaultdict(dict)
    directions = {abi.load().constants["DIRECTION_EGRESS"]: "egress"}
    for key, value in table.records():
        direction = directions.get(number_in(key, "direction"), "ingress")
        outcome = "dropped" if key["reason"] else "forwarded"
        sums = found[number_in(key, "identity")].setdefault(direction, _zeros())
        sums[f"{outcome}_packets"] += number_in(value, "packets")
        sums[f"{outcome}_bytes"] += number_in(value, "bytes")
    return found


def _zeros() -> dict[str, int]:
    return {
        f"{outcome}_{unit}": 0
        for outcome in ("forwarded", "dropped")
        for unit in ("packets", "bytes")
    }


def _totals(counters: Counters | None) -> Row:
    """Packets in both directions, as columns of the table."""
    if counters is None:
        return {}
    return {
        outcome: sum(sums[f"{outcome}_packets"] for sums in counters.values())
        for outcome in ("forwarded", "dropped")
    }


def _split(key: str) -> tuple[str, str]:
    namespace, _, name = key.partition("/")
    with suppress(ValueError):
        return names.dns_label(namespace), names.dns_subdomain(name)
    raise click.BadParameter(f"'{key}' is not NAMESPACE/NAME", param_hint="NS/NAME")


def _labels(texts: Sequence[str]) -> dict[str, str]:
    labels: dict[str, str] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or key in labels:
            wrong = "is not KEY=VALUE" if not equals else "is given twice"
            raise click.BadParameter(f"'{text}' {wrong}", param_hint="--label")
        labels[key] = value
    return labels


def _address(text: str) -> Address:
    try:
        return ip_address(text)
    except ValueError:
        raise click.BadParameter(
            f"'{text}' is not an IPv4 or IPv6 address", param_hint="--address"
        ) from None


def _port(text: str) -> NamedPort:
    name, _, rest = text.partition(":")
    number, slash, protocol = rest.partition("/")
    with suppress(KeyError, ValueError):
        kind = Protocol[protocol.upper()] if slash else Protocol.TCP
        return NamedPort(name, int(number), kind)
    raise click.BadParameter(
        f"'{text}' is not NAME:PORT/PROTOCOL, such as http:8080/TCP", param_hint="--port"
    )
