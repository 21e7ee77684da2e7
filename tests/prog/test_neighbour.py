"""ARP, neighbour discovery, multicast listeners: anybody may ask, and speak for itself alone."""

from __future__ import annotations

from typing import Any

import pytest
from scapy.layers.inet6 import (
    ICMPv6MLDMultAddrRec,
    ICMPv6MLDone,
    ICMPv6MLQuery,
    ICMPv6MLReport,
    ICMPv6MLReport2,
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6ND_RA,
    ICMPv6ND_Redirect,
    ICMPv6ND_RS,
    IPv6,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    RouterAlert,
)
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Packet

from tests.prog.harness import OK, Workload, World
from tests.prog.packets import MAC, OUTSIDE

ALL_NODES, ALL_ROUTERS, REPORTS = "ff02::1", "ff02::2", "ff02::16"
LINK_LOCAL, ROUTER = "fe80::51:ff:fe00:1", "fe80::1"


@pytest.fixture
def one(world: World) -> Workload:
    """A workload that policy allows nothing; w2 is another one."""
    world.workload("w2", 301)
    world.node_address("fd00:9::9")
    return world.workload("w1", 300)


def arp(sender: str, target: str, operation: int = 1, **fields: Any) -> Packet:
    return Ether(src=MAC, dst="ff:ff:ff:ff:ff:ff") / ARP(
        op=operation, psrc=sender, pdst=target, **fields
    )


@pytest.mark.parametrize(
    ("sender", "target", "operation", "passes"),
    [
        ("10.1.0.1", "10.1.0.254", 1, True),  # asks
        ("10.1.0.1", "10.1.0.254", 2, True),  # answers
        ("10.1.0.1", "10.1.0.1", 1, True),  # gratuitous
        ("10.1.0.1", "10.1.0.1", 2, True),
        ("0.0.0.0", "10.1.0.1", 1, True),  # probe, RFC 5227
        ("10.1.0.2", "10.1.0.254", 1, False),
        ("10.1.0.2", "10.1.0.1", 2, False),
        ("10.1.0.254", "10.1.0.254", 2, False),  # as the gateway
    ],
)
def test_arp(
    world: World, one: Workload, sender: str, target: str, operation: int, passes: bool
) -> None:
    seen = world.leave(arp(sender, target, operation), one)
    assert (seen.passed, seen.action) == (passes, OK if passes else 2)
    assert passes or seen.dropped("NEIGHBOUR")


def test_arp_that_contradicts_itself(world: World, one: Workload) -> None:
    for fields in ({"ptype": 0x86DD}, {"hwlen": 8}, {"plen": 16}):
        assert world.leave(arp(one.v4, "10.1.0.254", **fields), one).dropped("MALFORMED")


def test_arp_reaches_workloads(world: World, one: Workload) -> None:
    assert world.arrive(arp("10.1.0.254", one.v4), one).passed


def nd(source: str, destination: str, message: Packet, hops: int = 255, **link: str) -> Packet:
    layer = IPv6(src=source, dst=destination, hlim=hops)
    return Ether(src=MAC, dst=link.get("mac", "33:33:00:00:00:01")) / layer / message


OWN, FOREIGN = "fd00:1::1", "fd00:1::2"


@pytest.mark.parametrize(
    ("source", "destination", "message", "passes"),
    [
        (OWN, ALL_NODES, ICMPv6ND_NS(tgt="fd00:1::254"), True),
        (LINK_LOCAL, ALL_NODES, ICMPv6ND_NS(tgt=FOREIGN), True),
        (FOREIGN, ALL_NODES, ICMPv6ND_NS(tgt="fd00:1::254"), False),
        ("::", "ff02::1:ff00:1", ICMPv6ND_NS(tgt=OWN), True),  # duplicate address detection
        ("::", "ff02::1:ff00:1", ICMPv6ND_NS(tgt=LINK_LOCAL), True),
        ("::", "ff02::1:ff00:2", ICMPv6ND_NS(tgt=FOREIGN), False),
        (OWN, ROUTER, ICMPv6ND_NA(tgt=OWN), True),
        (OWN, ALL_NODES, ICMPv6ND_NA(tgt=OWN, R=0, S=0), True),
        (LINK_LOCAL, ROUTER, ICMPv6ND_NA(tgt=LINK_LOCAL), True),
        (OWN, ROUTER, ICMPv6ND_NA(tgt=FOREIGN), False),
        (LINK_LOCAL, ALL_NODES, ICMPv6ND_NA(tgt="fd00:9::9"), False),
        (FOREIGN, ROUTER, ICMPv6ND_NA(tgt=FOREIGN), False),
        (LINK_LOCAL, ALL_ROUTERS, ICMPv6ND_RS(), True),
        ("::", ALL_ROUTERS, ICMPv6ND_RS(), True),
        (LINK_LOCAL, ALL_NODES, ICMPv6ND_RA(), False),
        (OWN, ALL_NODES, ICMPv6ND_RA(), False),
        (LINK_LOCAL, OUTSIDE[6], ICMPv6ND_Redirect(tgt=LINK_LOCAL, dst="::"), False),
    ],
)
def test_discovery(
    world: World, one: Workload, source: str, destination: str, message: Packet, passes: bool
) -> None:
    packet = nd(source, destination, message)
    seen = world.leave(packet, one)
    assert seen.passed if passes else seen.dropped("NEIGHBOUR")
    assert world.flows() == []
    for hops in (0, 1, 64, 254):
        assert world.leave(nd(source, destination, message, hops), one).dropped("NEIGHBOUR")
        assert world.arrive(nd(source, destination, message, hops), one).dropped("NEIGHBOUR")
    assert world.arrive(packet, one).passed  # of a router or another host


@pytest.mark.parametrize(
    ("destination", "passes"),
    [
        (ROUTER, True),
        ("fd00:9::9", True),
        (OUTSIDE[6], False),
        (FOREIGN, False),
        ("ff0e::1", False),
    ],
)
def test_discovery_is_not_routed_past_policy(
    world: World, one: Workload, destination: str, passes: bool
) -> None:
    """Addressed to the node's own MAC, only what is for the link or the node itself goes on."""
    for message in (ICMPv6ND_NS(tgt=destination), ICMPv6ND_NA(tgt=OWN) / (b"s" * 400)):
        seen = world.leave(nd(OWN, destination, message, mac=one.interface.mac), one)
        assert seen.passed if passes else seen.dropped("NEIGHBOUR")
        assert world.leave(nd(OWN, destination, message, mac="02:99:00:00:00:01"), one).passed


def test_an_advertisement_without_its_target(world: World, one: Workload) -> None:
    packet = nd(OWN, ROUTER, ICMPv6ND_NA(tgt=OWN))
    whole = bytes(packet)
    for length in range(len(whole) - 16, len(whole)):
        short = bytearray(whole[:length])
        short[18:20] = (length - 54).to_bytes(2, "big")
        assert world.leave(bytes(short), one).dropped("TRUNCATED")
        padded = bytes(short) + bytes.fromhex(OWN_BYTES)  # behind the end of the datagram
        assert world.leave(padded, one).dropped("TRUNCATED")


OWN_BYTES = "fd000001000000000000000000000001" * 2


def test_fragmented_discovery(world: World, one: Workload) -> None:
    world.open(one)
    for header in (IPv6ExtHdrFragment(m=1, id=7), IPv6ExtHdrFragment(m=0, offset=0, id=7)):
        packet = nd(OWN, ROUTER, header / ICMPv6ND_NA(tgt=OWN))
        seen = world.leave(packet, one)
        assert seen.dropped("NEIGHBOUR") if header.m else seen.passed  # an atomic one is whole


@pytest.mark.parametrize(
    ("message", "passes"),
    [
        (ICMPv6MLReport(mladdr="ff05::7"), True),
        (ICMPv6MLDone(mladdr="ff05::7"), True),
        (ICMPv6MLReport2(records=[ICMPv6MLDMultAddrRec(dst="ff05::7")]), True),
        (ICMPv6MLQuery(), False),
    ],
)
def test_listeners(world: World, one: Workload, message: Packet, passes: bool) -> None:
    alert = IPv6ExtHdrHopByHop(options=[RouterAlert()])
    for source in (LINK_LOCAL, "::"):
        seen = world.leave(nd(source, REPORTS, alert / message, hops=1), one)
        assert seen.passed if passes else seen.dropped("NEIGHBOUR")
    for source, destination, hops in (
        (FOREIGN, REPORTS, 1),
        (OWN, OUTSIDE[6], 1),  # would be a way past policy
        (OWN, OUTSIDE[6], 64),
        (LINK_LOCAL, REPORTS, 255),
    ):
        packet = nd(source, destination, alert / message, hops=hops)
        assert world.leave(packet, one).dropped("NEIGHBOUR")
