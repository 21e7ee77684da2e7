"""ICMP errors pass when they are about a flow, and come from one who could have met its packets."""

from __future__ import annotations

import pytest
from scapy.layers.inet import ICMP
from scapy.layers.inet6 import (
    ICMPv6DestUnreach,
    ICMPv6PacketTooBig,
    ICMPv6ParamProblem,
    ICMPv6TimeExceeded,
)
from scapy.packet import Packet

from tests.prog.harness import EGRESS, Workload, World
from tests.prog.packets import OUTSIDE, STRANGER, back, echo, ends, ip, tcp, udp

FAMILIES = pytest.mark.parametrize("family", [4, 6])
KINDS: dict[int, list[Packet]] = {
    4: [ICMP(type=3, code=1), ICMP(type=3, code=4), ICMP(type=11), ICMP(type=12), ICMP(type=4)],
    6: [ICMPv6DestUnreach(), ICMPv6PacketTooBig(), ICMPv6TimeExceeded(), ICMPv6ParamProblem()],
}


@pytest.fixture
def one(world: World) -> Workload:
    """A workload that may send everything, and to which nobody may send."""
    made = world.workload("w1", 300)
    world.rule(made, EGRESS)
    return made


def error(source: str, destination: str, quoted: Packet | bytes, kind: Packet) -> Packet:
    """An error about a packet, whose network header and first bytes it carries."""
    network = quoted if isinstance(quoted, bytes) else bytes(quoted)[14:]
    return ip(source, destination, kind / network)


def flows_of(one: Workload, family: int) -> list[Packet]:
    pair = ends(one, OUTSIDE[family], family)
    return [tcp(*pair, 4000, 80), udp(*pair, 4000, 53), echo(*pair, 7)]


@FAMILIES
def test_about_a_flow(world: World, one: Workload, family: int) -> None:
    here = ends(one, one, family)[0]
    for sent in flows_of(one, family):
        for kind in KINDS[family]:
            for reporter in (OUTSIDE[family], STRANGER[family]):  # the peer, or a router
                packet = error(reporter, here, sent, kind)
                assert world.arrive(packet, one).dropped("ICMP_UNRELATED")
        assert world.leave(sent, one).passed
        for kind in KINDS[family]:
            for reporter in (OUTSIDE[family], STRANGER[family]):
                assert world.arrive(error(reporter, here, sent, kind), one).passed
    assert all(flow["packets"] == (1, 0) for flow in world.flows())


@FAMILIES
def test_about_a_reply(world: World, one: Workload, family: int) -> None:
    """What the workload says about a packet that came to it."""
    for sent in flows_of(one, family):
        assert world.leave(sent, one).passed
    pair = ends(one, OUTSIDE[family], family)
    for answer in (
        back(tcp(*pair, 4000, 80)),
        back(udp(*pair, 4000, 53)),
        echo(pair[1], pair[0], 7, reply=True),
    ):
        assert world.leave(error(*pair, answer, KINDS[family][0]), one).passed
    other = echo(pair[1], pair[0], 7)  # not an answer, though the identifier is the same
    assert world.leave(error(*pair, other, KINDS[family][0]), one).dropped("ICMP_UNRELATED")


@FAMILIES
def test_sent_to_the_wrong_host(world: World, one: Workload, family: int) -> None:
    other = world.workload("w2", 301)
    sent = flows_of(one, family)[0]
    assert world.leave(sent, one).passed
    packet = error(STRANGER[family], ends(other, other, family)[0], sent, KINDS[family][0])
    assert world.arrive(packet, other).dropped("ICMP_UNRELATED")


@FAMILIES
def test_a_workload_reports_on_no_others_flow(world: World, one: Workload, family: int) -> None:
    """It is no router, but could end others' connections or shrink their segments."""
    other = world.workload("w2", 301)
    here = ends(one, one, family)[0]
    for sent in flows_of(one, family):
        assert world.leave(sent, one).passed
        for kind in KINDS[family]:
            packet = error(ends(other, other, family)[0], here, sent, kind)
            assert world.leave(packet, other).dropped("ICMP_UNRELATED")


@FAMILIES
def test_revoked_flows_have_no_errors(world: World, one: Workload, family: int) -> None:
    sent = flows_of(one, family)[0]
    packet = error(OUTSIDE[family], ends(one, one, family)[0], sent, KINDS[family][0])
    assert world.leave(sent, one).passed
    assert world.arrive(packet, one).passed
    world.withdraw(world.rule(one, EGRESS))
    assert world.arrive(packet, one).dropped("POLICY_EGRESS")


@FAMILIES
def test_quotes_that_are_none(world: World, one: Workload, family: int) -> None:
    sent = flows_of(one, family)[0]
    assert world.leave(sent, one).passed
    network = bytes(sent)[14:]
    here = ends(one, one, family)[0]
    header = 40 if family == 6 else 20

    def about(quoted: bytes) -> Packet:
        return error(OUTSIDE[family], here, quoted, KINDS[family][0])

    for length in range(header + 8):
        assert world.arrive(about(network[:length]), one).dropped("TRUNCATED")
    assert world.arrive(about(network[: header + 8]), one).passed
    assert world.arrive(about(b"\x25" + network[1:]), one).dropped("MALFORMED")
    other_port = network[: header + 3] + b"\x51" + network[header + 4 :]
    assert world.arrive(about(other_port), one).dropped("ICMP_UNRELATED")
    if family == 4:
        assert world.arrive(about(b"\x44" + network[1:]), one).dropped("MALFORMED")
        later = bytearray(network)
        later[7] = 1  # its ports are not ports
        assert world.arrive(about(bytes(later)), one).dropped("ICMP_UNRELATED")


def test_redirects(world: World, one: Workload) -> None:
    """A host must not be sent elsewhere by one who has nothing to do with the flow."""
    other = world.workload("w2", 301)
    world.open(one, other)
    sent = flows_of(one, 4)[0]
    assert world.leave(sent, one).passed
    redirect = ICMP(type=5, gw=other.v4)
    assert world.leave(error(other.v4, one.v4, sent, redirect), other).dropped("ICMP_UNRELATED")


def test_versions_are_not_mixed(world: World, one: Workload) -> None:
    for sent, family in ((flows_of(one, 4)[0], 6), (flows_of(one, 6)[0], 4)):
        assert world.leave(sent, one).passed
        here = ends(one, one, family)[0]
        packet = error(OUTSIDE[family], here, sent, KINDS[family][0])
        assert world.arrive(packet, one).dropped("MALFORMED")
