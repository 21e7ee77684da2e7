"""Verdicts: both sides' policy, identities by longest prefix, rows by prefix and precedence."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from scapy.layers.inet import (
    IP,
    TCP,
    IPOption_EOL,
    IPOption_LSRR,
    IPOption_NOP,
    IPOption_Router_Alert,
    IPOption_RR,
    IPOption_SSRR,
    IPOption_Timestamp,
)
from scapy.layers.inet6 import IPv6ExtHdrRouting
from scapy.layers.sctp import SCTP
from scapy.packet import Packet

from pyagent.compiler.rows import Verdict
from pyagent.model import Protocol
from tests.prog.harness import EGRESS, INGRESS, OK, REDIRECT, TYPES, World
from tests.prog.packets import OUTSIDE, STRANGER, echo, ends, ip, numbered, tcp, udp

FAMILIES = pytest.mark.parametrize("family", [4, 6])


@FAMILIES
def test_allowed_between_local_workloads(world: World, family: int) -> None:
    one, other = world.workload("w1", 300), world.workload("w2", 301)
    world.open(one, other)
    packet = tcp(*ends(one, other, family), 4000, 80)
    seen = world.leave(packet, one)
    assert (seen.action, seen.counted) == (REDIRECT, {("NONE", EGRESS, 300): 1})
    assert (seen.parsed.dst, seen.parsed.src) == (other.mac, other.interface.mac)
    assert seen.packet[12:] == bytes(packet)[12:]
    (event,) = seen.events
    assert event["type"] == TYPES["POLICY"]
    assert (event["source_identity"], event["destination_identity"]) == (300, 301)
    assert (event["source_port"], event["destination_port"]) == (4000, 80)
    assert (event["ifindex"], event["length"]) == (one.interface.index, len(bytes(packet)))
    assert event["verdict"] == Verdict.ALLOW


@FAMILIES
def test_allowed_to_the_outside(world: World, family: int) -> None:
    one = world.workload("w1", 300)
    world.rule(one, EGRESS)
    packet = tcp(*ends(one, OUTSIDE[family], family), 4000, 80)
    seen = world.leave(packet, one)
    assert (seen.action, seen.packet, seen.reason) == (OK, bytes(packet), "NONE")


@FAMILIES
@pytest.mark.parametrize("side", [EGRESS, INGRESS])
def test_denied_by_one_side(world: World, family: int, side: int) -> None:
    one, other = world.workload("w1", 300), world.workload("w2", 301)
    denied = one if side == EGRESS else other
    world.rule(one, EGRESS)
    world.rule(other, INGRESS)
    world.rule(
        denied,
        EGRESS if side == EGRESS else INGRESS,
        protocol=Protocol.TCP,
        port=80,
        verdict=Verdict.DENY,
        number=77,
    )
    seen = world.leave(tcp(*ends(one, other, family), 4000, 80), one)
    assert seen.dropped("POLICY_EGRESS" if side == EGRESS else "POLICY_INGRESS")
    # counted for the one whose policy denied, as that one sees it
    assert list(seen.counted) == [(seen.reason, side, denied.identity)]
    assert seen.events[0]["rule"] == 77
    assert world.flows() == []


@FAMILIES
def test_no_row_denies(world: World, family: int) -> None:
    one = world.workload("w1", 300)
    assert world.leave(udp(*ends(one, OUTSIDE[family], family), 4000, 53), one).dropped(
        "POLICY_EGRESS"
    )
    assert world.arrive(udp(*ends(OUTSIDE[family], one, family), 4000, 53), one).dropped(
        "POLICY_INGRESS"
    )


@FAMILIES
def test_ingress_from_outside_and_node(world: World, family: int) -> None:
    one = world.workload("w1", 300)
    node = {4: "10.9.9.9", 6: "fd00:9::9"}[family]
    world.node_address(node)
    world.rule(one, INGRESS, peer=1)  # IDENTITY_NODE
    seen = world.arrive(tcp(*ends(node, one, family), 4000, 80), one, ingress=0)
    assert (seen.action, seen.counted) == (OK, {("NONE", INGRESS, 300): 1})
    other = world.arrive(tcp(*ends(OUTSIDE[family], one, family), 4000, 80), one)
    assert other.dropped("POLICY_INGRESS")


@pytest.mark.parametrize(
    ("protocol", "make"),
    [
        (Protocol.TCP, lambda a, b, port: tcp(a, b, 4000, port)),
        (Protocol.UDP, lambda a, b, port: udp(a, b, 4000, port)),
        (Protocol.SCTP, lambda a, b, port: ip(a, b, SCTP(sport=4000, dport=port))),
    ],
)
@FAMILIES
def test_port_of_one_protocol(
    world: World, family: int, protocol: Protocol, make: Callable[..., Packet]
) -> None:
    one = world.workload("w1", 300)
    world.rule(one, EGRESS, protocol=protocol, port=8080)
    pair = ends(one, OUTSIDE[family], family)
    assert world.leave(make(*pair, 8080), one).passed
    for port in (0, 8079, 8081, 36895):  # the last is 8080 in the wrong byte order
        assert world.leave(make(*pair, port), one).dropped("POLICY_EGRESS")
    wrong = udp if protocol != Protocol.UDP else tcp
    assert world.leave(wrong(*pair, 4000, 8080), one).dropped("POLICY_EGRESS")


def test_port_prefixes(world: World) -> None:
    one = world.workload("w1", 300)
    world.rule(one, EGRESS, protocol=Protocol.TCP, port=8192, bits=3)  # 8192 to 16383
    world.rule(one, EGRESS, protocol=Protocol.TCP, port=9000, verdict=Verdict.DENY)
    pair = ends(one, OUTSIDE[4], 4)
    seen = {
        p: world.leave(tcp(*pair, 4000, p), one).passed for p in (8191, 8192, 9000, 16383, 16384)
    }
    assert seen == {8191: False, 8192: True, 9000: False, 16383: True, 16384: False}


@FAMILIES
def test_protocols_without_ports_need_a_row_for_every_protocol(world: World, family: int) -> None:
    one = world.workload("w1", 300)
    world.rule(one, EGRESS, protocol=Protocol.TCP)
    world.rule(one, EGRESS, protocol=Protocol.UDP, port=0)
    pair = ends(one, OUTSIDE[family], family)
    assert world.leave(echo(*pair, 7), one).dropped("POLICY_EGRESS")
    world.rule(one, EGRESS)
    assert world.leave(echo(*pair, 7), one).passed


def test_longest_prefix_of_the_peer(world: World) -> None:
    one = world.workload("w1", 300)
    world.identity("198.51.100.0/24", 400)
    world.identity("198.51.100.7/32", 401)
    world.identity("2001:db8::/32", 402)
    world.rule(one, EGRESS, peer=400)
    world.rule(one, EGRESS, peer=402)
    seen = {
        to: world.leave(tcp(*ends(one, to, 6 if ":" in to else 4), 4000, 80), one).passed
        for to in ("198.51.100.6", "198.51.100.7", "198.51.101.6", "2001:db8::1", "2001:db9::1")
    }
    assert list(seen.values()) == [True, False, False, True, False]


@pytest.mark.parametrize(
    ("narrow", "wide", "passes"),
    [
        ((Verdict.ALLOW, 1), (Verdict.DENY, 2), False),
        ((Verdict.DENY, 2), (Verdict.ALLOW, 1), False),
        ((Verdict.ALLOW, 2), (Verdict.DENY, 1), True),
        ((Verdict.ALLOW, 1), (Verdict.DENY, 1), True),  # of equals, the very peer's
        ((Verdict.DENY, 1), (Verdict.ALLOW, 1), False),
    ],
)
def test_precedence_between_a_peer_and_every_peer(
    world: World, narrow: tuple[Verdict, int], wide: tuple[Verdict, int], passes: bool
) -> None:
    one = world.workload("w1", 300)
    world.identity("192.0.2.0/24", 400)
    world.rule(one, EGRESS, peer=400, verdict=narrow[0], precedence=narrow[1], number=10)
    world.rule(one, EGRESS, verdict=wide[0], precedence=wide[1], number=20)
    seen = world.leave(tcp(*ends(one, OUTSIDE[4], 4), 4000, 80), one)
    assert seen.passed is passes
    assert seen.events[0]["rule"] == (20 if wide[1] > narrow[1] else 10)


@pytest.mark.parametrize(
    ("egress", "ingress", "verdict", "rule"),
    [
        (Verdict.ALLOW, Verdict.ALLOW, Verdict.ALLOW, 2),
        (Verdict.AUDIT, Verdict.ALLOW, Verdict.AUDIT, 1),
        (Verdict.ALLOW, Verdict.AUDIT, Verdict.AUDIT, 2),
        (Verdict.HANDOFF, Verdict.ALLOW, Verdict.HANDOFF, 1),
        (Verdict.HANDOFF, Verdict.AUDIT, Verdict.HANDOFF, 1),
        (Verdict.AUDIT, Verdict.HANDOFF, Verdict.HANDOFF, 2),
        (Verdict.HANDOFF, Verdict.HANDOFF, Verdict.HANDOFF, 2),
    ],
)
def test_both_sides_verdicts(
    world: World, egress: Verdict, ingress: Verdict, verdict: Verdict, rule: int
) -> None:
    one, other = world.workload("w1", 300, tenant=1), world.workload("w2", 301, tenant=2)
    world.rule(one, EGRESS, verdict=egress, number=1)
    world.rule(other, INGRESS, verdict=ingress, number=2)
    for name, tenant in (("p1", 1), ("p2", 2)):
        world.proxy(name, tenant)
    (event,) = world.leave(tcp(*ends(one, other, 4), 4000, 80), one).events
    assert (event["verdict"], event["rule"]) == (verdict, rule)
    handed = verdict is Verdict.HANDOFF
    assert event["type"] == TYPES["HANDOFF" if handed else "POLICY"]
    assert event["tenant"] == (rule if handed else 0)  # the tenant whose side asked for it


@FAMILIES
def test_icmp_of_the_other_version_is_no_neighbour_discovery(world: World, family: int) -> None:
    one = world.workload("w1", 300)
    pair = ends(one, OUTSIDE[family], family)
    foreign = 58 if family == 4 else 1
    for kind in (130, 133, 135, 136, 143, 3):
        packet = ip(*pair, bytes([kind, 0]) + bytes(30), **numbered(family, foreign, hops=255))
        assert world.leave(packet, one).dropped("POLICY_EGRESS")


@FAMILIES
def test_what_is_for_a_group_is_judged_by_each_receiver(world: World, family: int) -> None:
    one, other = world.workload("w1", 300), world.workload("w2", 301)
    world.open(one)
    group, mac = {4: ("224.0.0.251", "01:00:5e:00:00:fb"), 6: ("ff02::fb", "33:33:00:00:00:fb")}[
        family
    ]
    packet = udp(*ends(one, group, family), 5353, 5353)
    packet.dst = mac
    assert world.leave(packet, one).passed
    assert world.arrive(packet, other, ingress=one.interface.index).dropped("POLICY_INGRESS")
    world.rule(other, INGRESS, peer=300, protocol=Protocol.UDP, port=5353)
    assert world.arrive(packet, other, ingress=one.interface.index).passed
    foreign = udp(*ends(OUTSIDE[family], group, family), 5353, 5353)
    foreign.dst = mac
    assert world.arrive(foreign, other).dropped("POLICY_INGRESS")


def test_a_connection_for_a_group_is_not_handed_off(world: World) -> None:
    one = world.workload("w1", 300, tenant=1)
    world.rule(one, INGRESS, verdict=Verdict.HANDOFF)
    world.proxy("p1", 1)
    packet = tcp(STRANGER[4], "10.255.255.255", 4000, 80, mac="ff:ff:ff:ff:ff:ff")
    assert world.arrive(packet, one).dropped("DESTINATION")


@FAMILIES
def test_source_routing_is_not_followed(world: World, family: int) -> None:
    one = world.workload("w1", 300)
    world.open(one)
    pair = ends(one, OUTSIDE[family], family)
    if family == 4:
        for option in (IPOption_LSRR, IPOption_SSRR):
            options = [IPOption_NOP(), IPOption_RR(), option(routers=["203.0.113.1"])]
            assert world.leave(tcp(*pair, 4000, 80, options=options), one).dropped("EXTENSIONS")
        return
    for left, reason in ((1, "EXTENSIONS"), (0, "NONE")):
        routed = IPv6ExtHdrRouting(addresses=["2001:db8::1"], segleft=left)
        packet = ip(*pair, routed / TCP(sport=4000, dport=80))
        assert world.leave(packet, one).reason == reason


def test_options_pass(world: World) -> None:
    one = world.workload("w1", 300)
    world.rule(one, EGRESS, protocol=Protocol.TCP, port=80)
    for options in (
        [IPOption_Router_Alert()],
        [IPOption_Timestamp(), IPOption_EOL()],
        b"\x01" * 12,
        b"\x01" * 3 + b"\x00" + b"\x83" * 36,  # nothing counts behind the end
    ):
        packet = tcp(*ends(one, OUTSIDE[4], 4), 4000, 80)
        packet[IP].options = options
        assert world.leave(packet, one).passed
    for options, reason in (
        (b"\x44\x00\x01\x01", "MALFORMED"),
        (b"\x44\x09\x01\x01", "MALFORMED"),
        (b"\x01" * 16, "EXTENSIONS"),
    ):
        packet = tcp(*ends(one, OUTSIDE[4], 4), 4000, 80)
        packet[IP].options = options
        assert world.leave(packet, one).dropped(reason)
