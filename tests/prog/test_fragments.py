"""Fragments: later ones go by what the first one said, and cannot change what was judged."""

from __future__ import annotations

import pytest
from scapy.layers.inet import TCP, UDP
from scapy.layers.inet6 import IPv6ExtHdrDestOpt, IPv6ExtHdrFragment
from scapy.packet import Packet, Raw

from pyagent.model import Protocol
from tests.prog.harness import EGRESS, INGRESS, Workload, World
from tests.prog.packets import OUTSIDE, ends, ip

FAMILIES = pytest.mark.parametrize("family", [4, 6])


@pytest.fixture
def one(world: World) -> Workload:
    made = world.workload("w1", 300)
    for protocol in (Protocol.TCP, Protocol.UDP):
        world.rule(made, EGRESS, protocol=protocol, port=80)
    return made


def piece(
    source: str,
    destination: str,
    payload: bytes,
    offset: int,
    more: bool,
    number: int,
    protocol: int = 17,
) -> Packet:
    """One fragment; `offset` in bytes."""
    if ":" in source:
        header = IPv6ExtHdrFragment(nh=protocol, offset=offset // 8, m=int(more), id=number)
        return ip(source, destination, header / Raw(payload))
    fields = {"proto": protocol, "frag": offset // 8, "flags": int(more), "id": number}
    return ip(source, destination, Raw(payload), **fields)


def datagram(port: int, protocol: int = 17) -> bytes:
    header = (
        UDP(sport=4000, dport=port, len=1000) if protocol == 17 else TCP(sport=4000, dport=port)
    )
    return bytes(header) + bytes(64 - len(header))


@FAMILIES
def test_later_fragments_follow_the_first(world: World, one: Workload, family: int) -> None:
    pair = ends(one, OUTSIDE[family], family)
    for protocol in (6, 17):
        first = datagram(80, protocol)
        assert world.leave(piece(*pair, first, 0, True, 7, protocol), one).passed
        assert world.leave(piece(*pair, bytes(64), 64, True, 7, protocol), one).passed
        assert world.leave(piece(*pair, bytes(10), 128, False, 7, protocol), one).passed
    (udp, tcp) = sorted(world.flows(), key=lambda flow: -int(flow["protocol"]))
    assert udp["packets"] == tcp["packets"] == (3, 0)
    assert {int(flow["state"]) for flow in (udp, tcp)} == {0}


@FAMILIES
def test_of_a_denied_datagram_no_fragment_passes(world: World, one: Workload, family: int) -> None:
    pair = ends(one, OUTSIDE[family], family)
    assert world.leave(piece(*pair, datagram(81), 0, True, 7), one).dropped("POLICY_EGRESS")
    assert world.leave(piece(*pair, bytes(64), 64, False, 7), one).dropped("POLICY_EGRESS")


@FAMILIES
def test_orphans_and_reordered(world: World, one: Workload, family: int) -> None:
    pair = ends(one, OUTSIDE[family], family)
    later = piece(*pair, datagram(80), 64, False, 7)
    assert world.leave(later, one).dropped("FRAGMENT")
    assert world.leave(piece(*pair, datagram(80), 0, True, 8), one).passed  # another datagram's
    assert world.leave(later, one).dropped("FRAGMENT")
    assert world.leave(piece(*pair, datagram(80), 0, True, 7), one).passed
    assert world.leave(later, one).passed


@FAMILIES
def test_an_identification_used_again(world: World, one: Workload, family: int) -> None:
    pair = ends(one, OUTSIDE[family], family)
    assert world.leave(piece(*pair, datagram(80), 0, True, 7), one).passed
    assert world.leave(piece(*pair, datagram(81), 0, True, 7), one).dropped("POLICY_EGRESS")
    assert world.leave(piece(*pair, bytes(64), 64, False, 7), one).dropped("POLICY_EGRESS")


@FAMILIES
def test_tiny_first_fragments(world: World, one: Workload, family: int) -> None:
    """Also when padding behind the datagram looks like the rest of the header."""
    pair = ends(one, OUTSIDE[family], family)
    for protocol, sizes in ((6, (0, 8, 16)), (17, (0,))):
        for size in sizes:
            packet = piece(*pair, datagram(80, protocol)[:size], 0, True, 7, protocol)
            assert world.leave(packet, one).dropped("TRUNCATED")
            padded = bytes(packet) + datagram(80, protocol)[size:]
            assert world.leave(padded, one).dropped("TRUNCATED")
    assert world.leave(piece(*pair, bytes(8), 64, False, 7), one).dropped("FRAGMENT")


@FAMILIES
def test_a_fragment_over_the_first_ones_header(world: World, one: Workload, family: int) -> None:
    pair = ends(one, OUTSIDE[family], family)
    assert world.leave(piece(*pair, datagram(80, 6), 0, True, 7, 6), one).passed
    for offset in (8, 16):
        packet = piece(*pair, bytes(64), offset, False, 7, 6)
        assert world.leave(packet, one).dropped("FRAGMENT")
    assert world.leave(piece(*pair, bytes(64), 24, False, 7, 6), one).passed


def test_a_later_fragment_says_another_protocol(world: World, one: Workload) -> None:
    """IPv6 reassembles whatever protocol a later fragment names; IPv4 keeps them apart."""
    pair = ends(one, OUTSIDE[6], 6)
    world.rule(one, EGRESS, protocol=Protocol.SCTP)
    options = bytes(IPv6ExtHdrDestOpt(nh=17))
    first = piece(*pair, options + datagram(81), 0, True, 7, protocol=60)
    assert world.leave(first, one).dropped("POLICY_EGRESS")
    for protocol in (17, 60, 132, 6):
        packet = piece(*pair, bytes(64), 64, False, 7, protocol)
        assert world.leave(packet, one).dropped("POLICY_EGRESS")
    assert world.leave(piece(*pair, options + datagram(80), 0, True, 8, protocol=60), one).passed
    assert world.leave(piece(*pair, bytes(64), 64, False, 8, protocol=60), one).passed
    four = ends(one, OUTSIDE[4], 4)
    assert world.leave(piece(*four, datagram(80), 0, True, 7), one).passed
    assert world.leave(piece(*four, bytes(64), 64, False, 7, 132), one).dropped("FRAGMENT")


@FAMILIES
def test_nobody_leaves_fragments_for_another(world: World, one: Workload, family: int) -> None:
    """A spoofed first fragment must not decide about the datagrams of the one it is spoofed of."""
    other = world.workload("w2", 301)
    pair = ends(one, OUTSIDE[family], family)
    spoofed = piece(*pair, datagram(80), 0, True, 7)
    assert world.leave(spoofed, other).dropped("SOURCE")
    assert world.arrive(spoofed, other).dropped("SOURCE")
    assert world.leave(piece(*pair, bytes(64), 64, False, 7), one).dropped("FRAGMENT")


@FAMILIES
def test_fragments_to_a_workload(world: World, one: Workload, family: int) -> None:
    world.rule(one, INGRESS, protocol=Protocol.UDP, port=80)
    pair = ends(OUTSIDE[family], one, family)
    later = piece(*pair, bytes(64), 64, False, 7)
    assert world.arrive(later, one).dropped("FRAGMENT")
    assert world.arrive(piece(*pair, datagram(81), 0, True, 7), one).dropped("POLICY_INGRESS")
    assert world.arrive(piece(*pair, datagram(80), 0, True, 7), one).passed
    assert world.arrive(later, one).passed


def test_proxies_send_none(world: World) -> None:
    proxy = world.node.interfaces["p1"]
    world.proxy("p1", 1)
    for family in (4, 6):
        pair = (OUTSIDE[family], OUTSIDE[family])
        packet = piece(*pair, datagram(80, 6), 0, True, 7, 6)
        assert world.send("from_proxy", packet, proxy).dropped("PROXY_PROTOCOL")
