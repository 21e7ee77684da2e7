"""A packet made for a question leaves no trace in any map; the same packet without the secret is
judged, counted and entered like any other."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any

import pytest

from pyagent.compiler.rows import Verdict
from pyagent.kernel import pins
from pyagent.kernel.question import TCP, Answer, Asker, Question, packet
from pyagent.model import Protocol
from tests.prog.harness import INGRESS, World
from tests.prog.node import context

_MAPS = ("conntrack", "counters", "stats", "proxy_clients", "fragments")


def _everything(world: World) -> dict[str, list[str]]:
    return {name: sorted(map(repr, world.node.tables[name].records())) for name in _MAPS}


def _ask(world: World, source: str, destination: str, port: int) -> Answer:
    with world.node.inside(), Asker(pins.pin_directory(world.node.state_dir)) as asker:
        return asker.ask(Question(ip_address(source), ip_address(destination), TCP, port))


@pytest.fixture
def ends(world: World) -> dict[str, Any]:
    """A client and a server whose tenant hands port 80 off and allows 443, both without egress
    policy."""
    world.node.tables.allow_questions()
    client, server = world.workload("w1", 300), world.workload("w2", 301, tenant=1)
    world.proxy("p1", 1)
    world.open(client)
    for port, verdict in ((80, Verdict.HANDOFF), (443, Verdict.ALLOW)):
        world.rule(server, INGRESS, protocol=Protocol.TCP, port=port, verdict=verdict)
    return {"client": client, "server": server}


def test_asking_changes_no_map(world: World, ends: dict[str, Any]) -> None:
    before = _everything(world)
    found = []
    for port in (80, 443, 22):
        for family in ("v4", "v6"):
            client, server = (getattr(ends[name], family) for name in ("client", "server"))
            answer = _ask(world, client, server, port)
            found.append((port, answer.verdict, answer.reason, answer.tenant))
    assert found == [
        *[(80, "handoff", "none", 1)] * 2,
        *[(443, "allow", "none", 0)] * 2,
        *[(22, "deny", "policy_ingress", 0)] * 2,
    ]
    assert _everything(world) == before


def test_without_the_secret_it_is_a_packet_like_any_other(
    world: World, ends: dict[str, Any]
) -> None:
    client, server = ends["client"], ends["server"]
    question = Question(ip_address(client.v4), ip_address(server.v4), TCP, 443)
    before = _everything(world)
    guessed = bytearray(context(client.interface.index))
    guessed[48:56] = (world.node.tables.settings["trace"] ^ 1).to_bytes(8, "little")
    with world.node.inside():
        world.node.run("from_workload", packet(question), bytes(guessed))
    after = _everything(world)
    assert len(after["conntrack"]) == len(before["conntrack"]) + 1
    assert after["counters"] != before["counters"]
