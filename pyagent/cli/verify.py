"""`sluice policy verify`: does the kernel enforce what the manifests say, and nothing else?"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

import click

from pyagent.cli.node import open_tables, pinned, read_config, state_in_force
from pyagent.cli.options import config_option, output_option
from pyagent.cli.output import Format, Row, emit, emit_value
from pyagent.config import AgentConfig
from pyagent.errors import SluiceError
from pyagent.kernel.netlink import Netlink
from pyagent.kernel.question import Asker, Question
from pyagent.manifests import load_directory
from pyagent.model import Address, FailureMode, Protocol, Snapshot
from pyagent.oracle import Oracle, Packet
from pyagent.state import NodeState
from pyagent.verify import Outcome, Questions, expected, questions, seen

_MOST = 200_000  # questions without --all: less than a minute
_COLUMNS = ("from", "to", "protocol", "port", "kernel", "manifests", "egress_rule", "ingress_rule")


@dataclass(frozen=True, slots=True)
class _Difference:
    packet: Packet
    kernel: Outcome
    manifests: Outcome
    egress_rule: int
    ingress_rule: int


@click.command(name="verify")
@click.option("--all", "unbounded", is_flag=True, help=f"Ask even more than {_MOST} questions.")
@config_option
@output_option
def verify(unbounded: bool, config: Path, output_format: Format) -> None:
    """Compare the kernel's answers with what the manifests say.

    Has the loaded program judge the first packet of a flow between every two workloads of this
    node, and between each of them and the node or an address outside (at the edges of every
    ipBlock, and one in none), for every port named anywhere and each protocol. The manifests are
    read by themselves, without the compiler. Run it where the agent runs; nothing changes.
    Exit status 1 on any difference.
    """
    node = _NodeAsItIs(read_config(config))
    asked = questions(node.snapshot, node.addresses)
    if len(asked) > _MOST and not unbounded:
        raise SluiceError(
            f"{len(asked)} questions, more than {_MOST}: use --all to have them all asked"
        )
    found = node.differences(_with_progress(asked))
    if found:  # a proxy may have come or gone meanwhile, and with it what fails open
        found = node.differences([difference.packet for difference in found])
    node.check_unchanged()
    _print(node, len(asked), found, output_format)
    if found:
        raise click.exceptions.Exit(1)


class _NodeAsItIs:
    """The manifests, the state that the agent says is in force, and the kernel's maps."""

    def __init__(self, config: AgentConfig) -> None:
        self._config = config
        self._pins = pinned(config.state_dir)
        self._state = state_in_force(config.state_dir)
        self.snapshot = load_directory(config.source_directory)
        _check_in_force(config, self._state, self.snapshot)
        with Netlink() as netlink:
            self.addresses = netlink.addresses()
        self._oracle = Oracle(self.snapshot, self.addresses, config.node_traffic)

    def differences(self, packets: Iterable[Packet]) -> list[_Difference]:
        """Asks kernel and oracle about each packet."""
        failed_open = self._failed_open()
        found = []
        with Asker(self._pins) as asker:
            for packet in packets:
                answer = asker.ask(
                    Question(packet.source, packet.destination, packet.protocol, packet.port)
                )
                tenant = self._state.tenants.get(answer.tenant)
                kernel = seen(answer.verdict, answer.reason, tenant)
                manifests = expected(self._oracle.ask(packet), failed_open)
                if kernel != manifests:
                    rules = answer.egress_rule, answer.ingress_rule
                    found.append(_Difference(packet, kernel, manifests, *rules))
        return found

    def _failed_open(self) -> frozenset[str]:
        """Tenants whose connections pass at layer 4 for now."""
        with open_tables(self._config.state_dir) as tables:
            serving = {number for number, row in tables.read().tenants.items() if row.ready}
        return frozenset(
            name
            for number, name in self._state.tenants.items()
            if number not in serving
            and name in self.snapshot.tenants
            and self.snapshot.tenants[name].failure_mode is FailureMode.OPEN
        )

    def check_unchanged(self) -> None:
        """SluiceError when a change was put in force, or was to be, while questions were asked."""
        now = state_in_force(self._config.state_dir)
        if (
            now.applied != self._state.applied
            or load_directory(self._config.source_directory) != self.snapshot
        ):
            raise SluiceError("the manifests have changed meanwhile: ask again")

    def name(self, address: Address) -> str:
        """Whose an address is, for people."""
        owner = self._oracle.owner(address)
        if owner is not None:
            return f"{owner.key} {address}"
        return f"{'node' if self._oracle.is_node(address) else 'outside'} {address}"

    def rule(self, number: int) -> str | None:
        """A rule by its name."""
        return self._state.rules.get(number, str(number)) if number else None


def _check_in_force(config: AgentConfig, state: NodeState, snapshot: Snapshot) -> None:
    """The manifests have to be those that the agent has put in force, as far as its state tells."""
    where = config.source_directory
    if state.problems:
        raise SluiceError(
            f"{where} is not in force, the agent refused it: {state.problems[0]}"
            + (f" (and {len(state.problems) - 1} more)" if len(state.problems) > 1 else "")
        )
    in_force = {w.key: {ip_address(a) for a in w.addresses} for w in state.workloads}
    wanted = {key: set(w.addresses) for key, w in snapshot.workloads.items()}
    if in_force != wanted:
        changed = [key for key in in_force | wanted if in_force.get(key) != wanted.get(key)]
        raise SluiceError(
            f"{where} is not in force yet: the agent knows other workloads "
            f"({', '.join(sorted(changed)[:8])})"
        )


def _with_progress(asked: Questions) -> Iterator[Packet]:
    """The questions, with a bar on stderr where a person waits for them."""
    hidden = not sys.stderr.isatty()
    bar = click.progressbar(
        asked, length=len(asked), label="asking", file=sys.stderr, hidden=hidden
    )
    with bar as packets:
        yield from packets


def _print(node: _NodeAsItIs, asked: int, found: list[_Difference], output_format: Format) -> None:
    rows = [_row(node, difference) for difference in found]
    if output_format is not Format.TABLE:
        emit_value({"questions": asked, "differences": rows}, output_format)
    elif rows:
        emit(rows, _COLUMNS, output_format)
        click.echo(f"{len(rows)} of {asked} questions: the kernel does not do what manifests say")
    else:
        click.echo(f"{asked} questions: the kernel does what the manifests say")


def _row(node: _NodeAsItIs, difference: _Difference) -> Row:
    packet = difference.packet
    known = {int(protocol): protocol.name for protocol in Protocol}
    return {
        "from": node.name(packet.source),
        "to": node.name(packet.destination),
        "protocol": known.get(packet.protocol, "ICMP"),
        "port": packet.port or None,
        "kernel": str(difference.kernel),
        "manifests": str(difference.manifests),
        "egress_rule": node.rule(difference.egress_rule),
        "ingress_rule": node.rule(difference.ingress_rule),
    }
