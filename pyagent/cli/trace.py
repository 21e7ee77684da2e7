"""`sluice policy trace`: what the data plane does with a packet, and why."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

import click

from pyagent.cli.decode import Row
from pyagent.cli.node import open_table, read_config, state_in_force
from pyagent.cli.options import config_option, output_option
from pyagent.cli.output import Format, emit, emit_value
from pyagent.errors import SluiceError
from pyagent.kernel.pins import pin_directory
from pyagent.kernel.question import Answer, Asker, Question
from pyagent.kernel.tables import Table
from pyagent.model import Address
from pyagent.state import NodeState, WorkloadState

_NUMBERS = {"TCP": 6, "UDP": 17, "SCTP": 132, "ICMP": 1}
_ICMPV6 = 58


@dataclass(frozen=True, slots=True)
class _End:
    """One end of the question: a workload, or an address that is nobody's here."""

    addresses: tuple[Address, ...]
    workload: WorkloadState | None


@click.command(name="trace")
@click.option("--from", "source", required=True, metavar="NS/NAME|IP", help="Who opens the flow.")
@click.option("--to", "destination", required=True, metavar="NS/NAME|IP", help="To whom.")
@click.option("--protocol", type=click.Choice(list(_NUMBERS), case_sensitive=False), default="TCP")
@click.option("--port", type=click.IntRange(1, 65535), help="Of the destination.")
@config_option
@output_option
def trace(
    source: str,
    destination: str,
    protocol: str,
    port: int | None,
    config: Path,
    output_format: Format,
) -> None:
    """Have the kernel run the loaded program on a packet made for the question.

    Says what the data plane does, not what a model of it says; no state and no counter changes.
    Where both ends have addresses of both families, both are asked.
    """
    if (port is None) != (protocol == "ICMP"):
        raise click.UsageError("TCP, UDP and SCTP need --port, ICMP has none")
    state_dir = read_config(config).state_dir
    identities = open_table(state_dir, "identities")
    state = state_in_force(state_dir)
    ends = _end(state, source), _end(state, destination)
    with Asker(pin_directory(state_dir)) as asker:
        rows = [
            _row(question, asker.ask(question), ends, identities, state)
            for question in _questions(*ends, protocol, port or 0)
        ]
    if output_format is Format.TABLE:
        _print(rows)
    else:
        emit_value(rows, output_format) if len(rows) == 1 else emit(rows, [], output_format)


def _end(state: NodeState, text: str) -> _End:
    for workload in state.workloads:
        if text == workload.key or text in workload.addresses:
            own = tuple(ip_address(address) for address in workload.addresses)
            chosen = own if text == workload.key else (ip_address(text),)
            return _End(chosen, workload)
    try:
        return _End((ip_address(text),), None)
    except ValueError:
        known = ", ".join(workload.key for workload in state.workloads[:8])
        raise SluiceError(
            f"{text}: neither an address nor a workload of this node ({known})"
        ) from None


def _questions(source: _End, destination: _End, protocol: str, port: int) -> Iterator[Question]:
    """One for each family that both ends have."""
    found = False
    for version in (4, 6):
        ends = [
            next((a for a in end.addresses if a.version == version), None)
            for end in (source, destination)
        ]
        if ends[0] is not None and ends[1] is not None:
            found = True
            number = _ICMPV6 if protocol == "ICMP" and version == 6 else _NUMBERS[protocol]
            yield Question(ends[0], ends[1], number, port)
    if not found:
        raise SluiceError("the two ends have no address family in common")


def _identity(identities: Table, address: Address) -> int:
    value = identities.get({"prefixlen": 128, "address": address})
    return int(value["identity"]) if value else 2


def _row(
    question: Question, answer: Answer, ends: tuple[_End, _End], identities: Table, state: NodeState
) -> Row:
    row: Row = {"verdict": answer.verdict, "drop_reason": answer.reason}
    for name, end, address in (
        ("from", ends[0], question.source),
        ("to", ends[1], question.destination),
    ):
        number = _identity(identities, address)
        row[name] = {
            "workload": end.workload.key if end.workload else None,
            "address": str(address),
            "identity": number,
            "labels": state.identities.get(number, str(number)),
        }
    row["protocol"], row["port"] = question.protocol, question.port
    row["egress_rule"] = _rule(state, answer.egress_rule)
    row["ingress_rule"] = _rule(state, answer.ingress_rule)
    row["proxy"] = state.tenants.get(answer.tenant) if answer.tenant else None
    row["missing"] = _missing(answer, row)
    return row


def _rule(state: NodeState, number: int) -> str | None:
    return state.rules.get(number, str(number)) if number else None


def _missing(answer: Answer, row: Row) -> str | None:
    """For a denial: what would have to be allowed, and by whose policy."""
    sides = {
        "policy_egress": ("egress", "from", "to"),
        "policy_ingress": ("ingress", "to", "from"),
    }
    if answer.reason not in sides:
        return None
    direction, subject, peer = sides[answer.reason]
    return (
        f"{direction} rule for {row[subject]['workload']} ({row[subject]['labels']}) "
        f"allowing {row[peer]['labels']} on protocol {row['protocol']} port {row['port']}"
    )


def _print(rows: list[Row]) -> None:
    for at, row in enumerate(rows):
        if at:
            click.echo()
        click.echo(_headline(row))
        for name in ("from", "to"):
            end = row[name]
            who = f"{end['workload']} " if end["workload"] else ""
            click.echo(
                f"  {name:<8} {who}{end['address']}, identity {end['identity']} ({end['labels']})"
            )
        for name in ("egress", "ingress"):
            if row[f"{name}_rule"]:
                click.echo(f"  {name:<8} {row[f'{name}_rule']}")
        if row["missing"]:
            click.echo(f"  missing  {row['missing']}")


def _headline(row: Row) -> str:
    if row["drop_reason"] != "none":
        return f"DROP {row['drop_reason']}"
    if row["proxy"]:
        return f"HANDOFF to the proxy of {row['proxy']}"
    return str(row["verdict"]).upper()
