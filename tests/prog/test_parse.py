"""Malformed and unusual packets: each is dropped with its reason, or judged by what it is."""

from __future__ import annotations

import struct

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import (
    ICMPv6EchoRequest,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
)
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.layers.sctp import SCTP
from scapy.packet import Packet, Raw

from pyagent.model import Protocol
from tests.prog.harness import EGRESS, Workload, World
from tests.prog.packets import MAC, OUTSIDE, echo, ends, ip, tcp, udp

FAMILIES = pytest.mark.parametrize("family", [4, 6])
HEADER = {4: 20, 6: 40}


@pytest.fixture
def one(world: World) -> Workload:
    """A workload that may send TCP and UDP to port 80 and nothing else."""
    made = world.workload("w1", 300)
    for protocol in (Protocol.TCP, Protocol.UDP, Protocol.SCTP):
        world.rule(made, EGRESS, protocol=protocol, port=80)
    return made


def samples(one: Workload) -> list[Packet]:
    found: list[Packet] = [
        Ether(src=MAC, dst="ff:ff:ff:ff:ff:ff") / ARP(psrc=one.v4, pdst="10.1.0.9")
    ]
    for family in (4, 6):
        pair = ends(one, OUTSIDE[family], family)
        found += [
            tcp(*pair, 4000, 80, data=b"data"),
            udp(*pair, 4000, 80, b"data"),
            ip(*pair, SCTP(sport=4000, dport=80) / Raw(b"data")),
        ]
    found.append(behind(one, [HOP_BY_HOP, OPTIONS, FRAGMENT, AH]))
    found.append(tcp(one.v4, OUTSIDE[4], 4000, 80, options=b"\x94\x04\0\0" * 10))
    return found


def test_whole_samples_pass(world: World, one: Workload) -> None:
    for packet in samples(one):
        assert world.leave(packet, one).passed, packet.summary()


def test_truncated_at_every_byte(world: World, one: Workload) -> None:
    for packet in samples(one):
        raw = bytes(packet)
        # the kernel does not run a program on less; test_live.py sends what is shorter
        least = 15 if ARP in packet else 14 + (40 if IPv6 in packet else 20)
        for length in range(least, len(raw)):
            assert world.leave(raw[:length], one).dropped("TRUNCATED"), (packet.summary(), length)


@FAMILIES
def test_headers_do_not_reach_into_the_padding(world: World, one: Workload, family: int) -> None:
    """The IP header says that the datagram ends in the middle of what looks like a segment."""
    for make, header in ((tcp, 20), (udp, 8)):
        raw = bytearray(bytes(make(*ends(one, OUTSIDE[family], family), 4000, 80, data=b"")))
        for inside in range(header):
            length = inside + (20 if family == 4 else 0)
            struct.pack_into("!H", raw, 16 if family == 4 else 18, length)
            assert world.leave(bytes(raw), one).dropped("TRUNCATED")


@FAMILIES
def test_total_length_zero(world: World, one: Workload, family: int) -> None:
    """Only a segmentation-offload packet may leave its length out."""
    raw = bytearray(bytes(tcp(*ends(one, OUTSIDE[family], family), 4000, 80, data=b"d" * 100)))
    struct.pack_into("!H", raw, 16 if family == 4 else 18, 0)
    seen = world.leave(bytes(raw), one)
    assert seen.dropped("MALFORMED" if family == 4 else "TRUNCATED")
    assert world.leave(bytes(raw), one, gso_segs=2).passed
    struct.pack_into("!H", raw, 14 + HEADER[family] + 2, 81)
    assert world.leave(bytes(raw), one, gso_segs=2).dropped("POLICY_EGRESS")


@pytest.mark.parametrize(
    ("at", "value", "reason"),
    [
        (14, 0x44, "MALFORMED"),  # header length 16
        (14, 0x65, "MALFORMED"),  # version 6
        (16, 0x00, "MALFORMED"),  # total length 10, after byte 17
        (46, 0x40, "MALFORMED"),  # TCP data offset 4
        (46, 0xF0, "TRUNCATED"),  # TCP header of 60 bytes
        (14, 0x4F, "TRUNCATED"),  # IP header of 60 bytes, of which 20 are TCP's
    ],
)
def test_ipv4_fields_that_contradict(
    world: World, one: Workload, at: int, value: int, reason: str
) -> None:
    raw = bytearray(bytes(tcp(*ends(one, OUTSIDE[4], 4), 4000, 80, data=b"d" * 8)))
    raw[at] = value
    if at == 16:
        raw[17] = 10
    seen = world.leave(bytes(raw), one)
    assert seen.dropped("MALFORMED" if (at, value) == (14, 0x4F) else reason)


def test_ipv6_version_and_length(world: World, one: Workload) -> None:
    raw = bytearray(bytes(tcp(*ends(one, OUTSIDE[6], 6), 4000, 80)))
    assert world.leave(bytes(raw[:14]) + b"\x45" + bytes(raw[15:]), one).dropped("MALFORMED")
    raw[19] += 1
    assert world.leave(bytes(raw), one).dropped("TRUNCATED")


def test_udp_length(world: World, one: Workload) -> None:
    for length, reason in ((7, "MALFORMED"), (1, "MALFORMED"), (0, "NONE"), (8, "NONE")):
        packet = ip(*ends(one, OUTSIDE[4], 4), UDP(sport=4000, dport=80, len=length) / b"x")
        assert world.leave(packet, one).reason == reason


@pytest.mark.parametrize("flags", ["", "F", "P", "U", "SF", "SR", "SFR", "SFPU", "FPU"])
@FAMILIES
def test_flags_that_contradict(world: World, one: Workload, family: int, flags: str) -> None:
    packet = tcp(*ends(one, OUTSIDE[family], family), 4000, 80, flags)
    assert world.leave(packet, one).dropped("TCP_FLAGS")


@pytest.mark.parametrize("flags", ["S", "SEC", "SA", "A", "PA", "FA", "R", "RA", "SPU"])
def test_flags_that_go_together(world: World, one: Workload, flags: str) -> None:
    assert world.leave(tcp(*ends(one, OUTSIDE[4], 4), 4000, 80, flags), one).passed


@pytest.mark.parametrize("kind", [0x88CC, 0x88A8, 0x8847, 0x0600, 0x0100, 0x0000])
def test_other_ethertypes(world: World, one: Workload, kind: int) -> None:
    raw = Ether(src=MAC, dst=one.interface.mac, type=kind) / Raw(bytes(50))
    assert world.leave(raw, one).dropped("PROTOCOL")


def test_vlan(world: World, one: Workload) -> None:
    inner = tcp(*ends(one, OUTSIDE[4], 4), 4000, 80)
    tagged = Ether(src=MAC, dst=one.interface.mac) / Dot1Q(vlan=7) / inner[IP]
    assert world.leave(tagged, one).dropped("PROTOCOL")


def extensions(numbers: list[int], last: int = 6, size: int = 8) -> bytes:
    """Extension headers of these protocol numbers, `size` bytes each, and what follows them."""
    following = [*numbers[1:], last]
    length = {number: size // 4 - 2 if number == AH else size // 8 - 1 for number in numbers}
    return b"".join(
        bytes([after, length[number]]) + bytes(size - 2)
        for number, after in zip(numbers, following, strict=True)
    )


HOP_BY_HOP, ROUTING, FRAGMENT, AH, OPTIONS = 0, 43, 44, 51, 60


def behind(one: Workload, numbers: list[int], port: int = 80, size: int = 8) -> Packet:
    chain = Raw(extensions(numbers, size=size)) / TCP(sport=4000, dport=port)
    return ip(*ends(one, OUTSIDE[6], 6), chain, nh=numbers[0])


@pytest.mark.parametrize("count", range(1, 10))
def test_nested_extension_headers(world: World, one: Workload, count: int) -> None:
    for kinds in ([OPTIONS], [AH], [HOP_BY_HOP, ROUTING, AH, OPTIONS]):
        numbers = (kinds * count)[:count]
        if count > 6:
            assert world.leave(behind(one, numbers, size=24), one).dropped("EXTENSIONS")
            continue
        assert world.leave(behind(one, numbers, size=24), one).passed
        assert world.leave(behind(one, numbers, port=81, size=24), one).dropped("POLICY_EGRESS")


@pytest.mark.parametrize(
    ("size", "count", "reason"),
    [(240, 1, "NONE"), (240, 2, "EXTENSIONS"), (224, 2, "NONE"), (464, 1, "EXTENSIONS")],
)
def test_long_extension_headers(
    world: World, one: Workload, size: int, count: int, reason: str
) -> None:
    """The transport header is looked for in the first 512 bytes."""
    assert world.leave(behind(one, [OPTIONS] * count, size=size), one).reason == reason


def test_an_extension_header_that_points_beyond(world: World, one: Workload) -> None:
    pair = ends(one, OUTSIDE[6], 6)
    for units in (2, 10, 50):
        packet = ip(*pair, IPv6ExtHdrDestOpt(len=units) / TCP(sport=4000, dport=80))
        assert world.leave(packet, one).dropped("TRUNCATED")
    assert world.leave(ip(*pair, IPv6ExtHdrDestOpt(len=255)), one).dropped("EXTENSIONS")
    assert world.leave(ip(*pair, IPv6ExtHdrHopByHop(nh=0)), one).dropped("TRUNCATED")


def test_jumbograms(world: World, one: Workload) -> None:
    """RFC 2675: the length is 0, and in an option that not every host reads."""
    jumbo = Raw(bytes([6, 0, 0xC2, 4, 0, 0, 0, 28])) / TCP(sport=4000, dport=80)
    packet = ip(*ends(one, OUTSIDE[6], 6), jumbo, nh=HOP_BY_HOP, plen=0)
    assert world.leave(packet, one).dropped("TRUNCATED")


def test_two_fragment_headers(world: World, one: Workload) -> None:
    pair = ends(one, OUTSIDE[6], 6)
    twice = IPv6ExtHdrFragment(m=1, id=7) / IPv6ExtHdrFragment(m=0, id=0)
    assert world.leave(ip(*pair, twice / TCP(sport=4000, dport=80)), one).dropped("MALFORMED")
    atomic = IPv6ExtHdrFragment(m=0, id=0) / TCP(sport=4000, dport=80)
    assert world.leave(ip(*pair, atomic), one).passed


def test_mapped_addresses_do_not_pass_for_ipv4(world: World, one: Workload) -> None:
    for pair in ((f"::ffff:{one.v4}", OUTSIDE[6]), (one.v6, f"::ffff:{OUTSIDE[4]}")):
        assert world.leave(tcp(*pair, 4000, 80), one).dropped("MALFORMED")


def test_no_next_header_has_no_ports(world: World, one: Workload) -> None:
    """Nothing after `no next header`, or in a protocol without ports, stands for a port."""
    looks_like = struct.pack("!HH", 4000, 80) + bytes(16)
    for number in (59, 135, 50, 4, 41, 136, 33, 255):
        assert world.leave(ip(*ends(one, OUTSIDE[6], 6), looks_like, nh=number), one).dropped(
            "POLICY_EGRESS"
        )
        assert world.leave(ip(*ends(one, OUTSIDE[4], 4), looks_like, proto=number), one).dropped(
            "POLICY_EGRESS"
        )


def test_icmp_is_judged(world: World, one: Workload) -> None:
    for family in (4, 6):
        pair = ends(one, OUTSIDE[family], family)
        assert world.leave(echo(*pair, 80), one).dropped("POLICY_EGRESS")
    assert world.leave(ip(*ends(one, OUTSIDE[4], 4), ICMP(type=13)), one).dropped("POLICY_EGRESS")
    short = bytes(ip(*ends(one, OUTSIDE[6], 6), ICMPv6EchoRequest()))[:-1]
    assert world.leave(short, one).dropped("TRUNCATED")
