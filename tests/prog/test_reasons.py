"""Every drop reason of bpf/abi.h: one packet that is dropped for it, counted and reported."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from scapy.layers.inet import ICMP
from scapy.layers.inet6 import IPv6ExtHdrRouting
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Packet

from pyagent.compiler.rows import Verdict
from pyagent.config import MapSizes
from pyagent.kernel import abi
from pyagent.model import Protocol
from tests.prog.harness import ABI, EGRESS, INGRESS, REASONS, REDIRECT, TYPES, Outcome, World
from tests.prog.node import SIZES, Node, context
from tests.prog.packets import MAC, OUTSIDE, ip, tcp, udp

ONE, TWO, OUT = "10.1.0.1", "10.1.0.2", OUTSIDE[4]


def leaving(packet: Packet | bytes) -> Callable[[World], Outcome]:
    return lambda world: world.leave(packet, world.workload("w1", 300))


def leaving_openly(packet: Packet) -> Callable[[World], Outcome]:
    def send(world: World) -> Outcome:
        world.open(world.workload("w1", 300), world.workload("w2", 301))
        return world.leave(packet, world.workload("w1", 300))

    return send


def at_interface_without_workload(world: World) -> Outcome:
    return world.send("from_workload", tcp(ONE, OUT, 4000, 80), world.out)


def arriving_elsewhere(world: World) -> Outcome:
    return world.arrive(tcp(OUT, TWO, 4000, 80), world.workload("w1", 300))


def handed_off(flags: str, ready: bool) -> Callable[[World], Outcome]:
    def send(world: World) -> Outcome:
        one = world.workload("w1", 300, tenant=5)
        world.rule(one, INGRESS, verdict=Verdict.HANDOFF)
        world.proxy("p1", 5, ready=ready)
        return world.arrive(tcp(OUT, ONE, 4000, 80, flags), one)

    return send


def from_proxy(
    packet: Packet, served: bool = True, prepare: Callable[[World], object] | None = None
) -> Callable[[World], Outcome]:
    """w1 has been handed off to p1 with its connection to w2's port 80, if `served`."""

    def send(world: World) -> Outcome:
        one, two = world.workload("w1", 300), world.workload("w2", 301, tenant=5)
        world.open(one)
        world.rule(two, INGRESS, protocol=Protocol.TCP, port=80, verdict=Verdict.HANDOFF)
        world.rule(two, INGRESS, protocol=Protocol.TCP, port=8080)
        world.proxy("p1", 5)
        if served:
            assert world.leave(tcp(ONE, TWO, 4000, 80), one).passed
        if prepare:
            prepare(world)
        return world.send("from_proxy", packet, world.node.interfaces["p1"])

    return send


def direct_connection(world: World) -> None:
    assert world.leave(tcp(ONE, TWO, 5000, 8080), world.workload("w1", 300)).passed


def of_another_tenant(world: World) -> None:
    world.workload("w2", 301, tenant=6)


CASES: dict[str, Callable[[World], Outcome]] = {
    "TRUNCATED": leaving(bytes(tcp(ONE, OUT, 4000, 80))[:-1]),
    "MALFORMED": leaving(tcp(ONE, OUT, 4000, 80, ihl=4)),
    "EXTENSIONS": leaving(ip("fd00:1::1", OUTSIDE[6], IPv6ExtHdrRouting(addresses=["::1"]))),
    "PROTOCOL": leaving(Ether(src=MAC, type=0x8847) / bytes(20)),
    "FRAGMENT": leaving(ip(ONE, OUT, bytes(20), frag=8)),
    "NO_WORKLOAD": at_interface_without_workload,
    "SOURCE": leaving(tcp(TWO, OUT, 4000, 80)),
    "NEIGHBOUR": leaving(Ether(src=MAC) / ARP(op=2, psrc=TWO)),
    "POLICY_EGRESS": leaving(tcp(ONE, OUT, 4000, 80)),
    "POLICY_INGRESS": lambda world: world.arrive(
        tcp(OUT, ONE, 4000, 80), world.workload("w1", 300)
    ),
    "PROXY_NOT_READY": handed_off("S", ready=False),
    "PROXY_MIDSTREAM": handed_off("A", ready=True),
    "PROXY_SOURCE": from_proxy(tcp(ONE, TWO, 5000, 80), served=False),
    "PROXY_PROTOCOL": from_proxy(udp(ONE, TWO, 5000, 80)),
    "PROXY_COLLISION": from_proxy(tcp(ONE, TWO, 5000, 8080), prepare=direct_connection),
    "PROXY_TENANT": from_proxy(tcp(ONE, TWO, 5000, 80), prepare=of_another_tenant),
    "ICMP_UNRELATED": leaving_openly(
        ip(ONE, OUT, ICMP(type=3) / bytes(tcp(OUT, ONE, 4000, 80))[14:])
    ),
    "DESTINATION": arriving_elsewhere,
    "TCP_FLAGS": leaving(tcp(ONE, OUT, 4000, 80, "SF")),
}
APART = {"NONE", "NO_LISTENER", "CONNTRACK_FULL"}


@pytest.mark.parametrize(
    "reason", [c.name for c in ABI.lists["DROP_REASONS"] if c.name not in APART]
)
def test_reason(world: World, reason: str) -> None:
    outcome = CASES[reason](world)
    assert outcome.dropped(reason), outcome
    assert outcome.stats == {}


def test_no_listener(world: World) -> None:
    """Counted, and answered by a reset, which goes out of the proxy's namespace."""
    outcome = world.send("to_proxy", tcp(ONE, TWO, 4000, 80), world.node.interfaces["p1"])
    assert (outcome.action, outcome.counted) == (REDIRECT, {("NO_LISTENER", INGRESS, 0): 1})


def test_conntrack_full(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Two CPUs at once want the only entry there is."""
    sizes = MapSizes(
        **{name: getattr(SIZES, name) for name in MapSizes.__slots__} | {"conntrack": 1}
    )
    node = Node(Path(tmp_path_factory.mktemp("full")), sizes)
    try:
        world = World(node)
        one = world.workload("w1", 300)
        world.rule(one, EGRESS)
        deadline = time.monotonic() + 20
        events: list[abi.Record] = []
        while not events and time.monotonic() < deadline:
            threads = [
                threading.Thread(target=hammer, args=(node, udp(ONE, OUT, port, 53)))
                for port in (4000, 4001)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            events = [e for e in drained(node) if e["reason"] == REASONS["CONNTRACK_FULL"]]
        assert events and all(event["type"] == TYPES["DROP"] for event in events)
        counted = world.counted()["CONNTRACK_FULL", EGRESS, 300]
        assert counted[0] == world.stats()["CONNTRACK_FULL"] > 0
        assert set(world.counted()) == {("NONE", EGRESS, 300), ("CONNTRACK_FULL", EGRESS, 300)}
    finally:
        node.close()


def hammer(node: Node, packet: Packet) -> None:
    with node.inside():
        node.run(
            "from_workload", bytes(packet), context(node.interfaces["w1"].index), repeat=10_000
        )


def drained(node: Node) -> list[abi.Record]:
    found = []
    while records := node.events.poll(0):
        found += [ABI.layouts["event"].unpack(record) for record in records]
    return found
