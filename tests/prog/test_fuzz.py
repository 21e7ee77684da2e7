"""Mutated packets: none crashes the programs, and none passes that policy would not allow.

Whether it would is said by scapy's parse of the same bytes, which shares nothing with parse.h.
"""

from __future__ import annotations

import random
from ipaddress import IPv4Address, IPv6Address

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import (
    ICMPv6DestUnreach,
    ICMPv6EchoRequest,
    ICMPv6MLReport2,
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
)
from scapy.layers.ipsec import AH
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Packet, Raw

from pyagent.model import Protocol
from tests.prog import rounds
from tests.prog.harness import EGRESS, OK, REDIRECT, SHOT, Workload, World
from tests.prog.node import context
from tests.prog.packets import MAC, OUTSIDE, back, echo, ends, ip, tcp, udp

COUNT = 20_000
SEED = 20_250_101
PORT = 80


def seeds(one: Workload) -> list[bytes]:
    packets: list[Packet] = [
        Ether(src=MAC) / ARP(psrc=one.v4, pdst="10.1.0.9"),
        ip(one.v6, "ff02::1", ICMPv6ND_NS(tgt="fe80::1"), hlim=255),
        ip(one.v6, "fe80::1", ICMPv6ND_NA(tgt=one.v6), hlim=255),
        ip("fe80::9", "ff02::16", IPv6ExtHdrHopByHop() / ICMPv6MLReport2(), hlim=1),
        ip(one.v4, OUTSIDE[4], TCP(sport=4000, dport=PORT) / bytes(32), flags="MF", id=7),
        ip(one.v4, OUTSIDE[4], Raw(bytes(24)), frag=4, id=7, proto=6),
        tcp(one.v4, OUTSIDE[4], 4000, PORT, options=b"\x94\x04\0\0" * 3),
    ]
    segment = TCP(sport=4000, dport=PORT)
    chain = IPv6ExtHdrHopByHop() / IPv6ExtHdrDestOpt()
    packets.append(ip(one.v6, OUTSIDE[6], chain / segment))
    packets.append(ip(one.v6, OUTSIDE[6], AH(nh=6, icv=bytes(12)) / bytes(segment)))
    packets.append(ip(one.v6, OUTSIDE[6], IPv6ExtHdrFragment(m=1, id=7) / segment / bytes(12)))
    packets.append(ip(one.v6, OUTSIDE[6], IPv6ExtHdrFragment(offset=4, id=7, nh=6) / bytes(12)))
    for family in (4, 6):
        pair = ends(one, OUTSIDE[family], family)
        error = ICMP(type=3) if family == 4 else ICMPv6DestUnreach()
        packets += [
            tcp(*pair, 4000, PORT, data=b"data"),
            tcp(*pair, 4000, 81),
            udp(*pair, 4000, PORT),
            echo(*pair, 7),
            ip(*pair, error / bytes(back(tcp(*pair, 4000, PORT)))[14:]),
        ]
    return [bytes(packet) for packet in packets]


def mutate(dice: random.Random, pool: list[bytes]) -> bytes:
    raw = bytearray(dice.choice(pool))
    for _ in range(dice.choice((1, 1, 2, 3, 8))):
        at = dice.randrange(12, min(len(raw), 90))
        kind = dice.randrange(6)
        if kind == 0:
            raw[at] = dice.choice((0, 1, 4, 5, 6, 17, 43, 44, 51, 58, 60, 80, 127, 128, 255))
        elif kind == 1:
            raw[at] ^= 1 << dice.randrange(8)
        elif kind == 2:
            raw[at] = dice.randrange(256)
        elif kind == 3:
            del raw[at : at + dice.choice((1, 2, 4, 8))]
        elif kind == 4:
            raw[at:at] = dice.randbytes(dice.choice((1, 2, 4, 8, 40)))
        else:
            other = dice.choice(pool)
            raw = raw[:at] + other[at:]
        if len(raw) < 64:
            raw += bytes(64 - len(raw))
    return bytes(raw)


def behind(header: AH) -> Packet:
    """What follows an authentication header (RFC 4302), where scapy stops."""
    raw = bytes(header)
    kinds: dict[int, type[Packet]] = {
        0: IPv6ExtHdrHopByHop,
        6: TCP,
        43: IPv6ExtHdrRouting,
        44: IPv6ExtHdrFragment,
        51: AH,
        60: IPv6ExtHdrDestOpt,
    }
    return kinds.get(raw[0], Raw)(raw[(raw[1] + 2) * 4 :])


class Judge:
    """What may pass: ARP and discovery of its own, TCP to one port, and what belongs to that."""

    def __init__(self, one: Workload) -> None:
        self.own = {IPv4Address(one.v4), IPv6Address(one.v6)}
        self.begun: set[tuple[str, str, int]] = set()  # datagrams whose first fragment passed

    def allows(self, raw: bytes) -> bool:
        packet = Ether(raw)
        if packet.type == 0x0806 and ARP in packet:
            sender = IPv4Address(packet[ARP].psrc)
            return sender in self.own or sender == IPv4Address(0)
        if packet.type == 0x0800 and IP in packet:
            return self._ipv4(packet[IP])
        if packet.type == 0x86DD and IPv6 in packet:
            return self._ipv6(packet[IPv6])
        return False

    def _ipv4(self, layer: IP) -> bool:
        if layer.version != 4 or IPv4Address(layer.src) not in self.own:
            return False
        number = (layer.src, layer.dst, layer.id)
        if layer.frag:
            return layer.proto == 6 and number in self.begun
        allowed = self._payload(layer.payload)
        if allowed and layer.flags.MF:
            self.begun.add(number)
        return allowed

    def _ipv6(self, layer: IPv6) -> bool:
        if layer.version != 6:
            return False
        inner: Packet = layer.payload
        while type(inner).__name__.startswith(("IPv6ExtHdr", "AH")):
            if isinstance(inner, IPv6ExtHdrFragment):
                number = (layer.src, layer.dst, inner.id)
                if inner.offset:
                    return IPv6Address(layer.src) in self.own and number in self.begun
                if inner.m:
                    self.begun.add(number)
            inner = behind(inner) if isinstance(inner, AH) else inner.payload
        if IPv6Address(layer.src) in self.own and self._payload(inner):
            return True
        return self._discovery(layer, inner)

    def _discovery(self, layer: IPv6, inner: Packet) -> bool:
        source = IPv6Address(layer.src)
        if source not in self.own and not source.is_link_local and not source.is_unspecified:
            return False
        kind = bytes(inner)[0] if len(bytes(inner)) >= 8 else 0
        if kind in (131, 132, 143):
            return layer.hlim == 1 and IPv6Address(layer.dst).is_multicast
        if kind == 136 or (kind == 135 and source.is_unspecified):
            target = IPv6Address(bytes(inner)[8:24])
            return layer.hlim == 255 and (target in self.own or target.is_link_local)
        return kind in (133, 135) and layer.hlim == 255

    def _payload(self, inner: Packet) -> bool:
        """A segment to the port, or an error about an answer from it."""
        if isinstance(inner, TCP):
            return bool(inner.dport == PORT and inner.dataofs >= 5)
        raw = bytes(inner)
        if isinstance(inner, UDP | ICMPv6EchoRequest) or len(raw) < 36:
            return False
        quoted = raw[8:]
        if quoted[0] >> 4 == 4:
            header = (quoted[0] & 15) * 4
            return quoted[9] == 6 and int.from_bytes(quoted[header : header + 2], "big") == PORT
        return quoted[6] == 6 and int.from_bytes(quoted[40:42], "big") == PORT


@pytest.mark.timeout(60 + rounds.SECONDS)
def test_mutated_packets_from_a_workload(world: World) -> None:
    one = world.workload("w1", 300)
    world.workload("w2", 301)
    world.rule(one, EGRESS, protocol=Protocol.TCP, port=PORT)
    for seed in rounds.seeds(SEED):
        passed = _mutate_and_judge(world, one, random.Random(seed))
        print(f"{COUNT} packets, {passed} passed")
        assert COUNT // 20 < passed < COUNT // 2  # some of each, or nothing has been shown
        world.forget("conntrack", "fragments")  # the next judge knows nothing of them


def _mutate_and_judge(world: World, one: Workload, dice: random.Random) -> int:
    """One round; how many of the packets passed."""
    pool, judge = seeds(one), Judge(one)
    ctx = context(one.interface.index)
    before = sum(value[0] for value in world.counted().values())
    passed = 0
    with world.node.inside():
        for raw in pool:
            world.node.run("from_workload", raw, ctx)
            judge.allows(raw)
        for number in range(COUNT):
            raw = mutate(dice, pool)
            action = world.node.run("from_workload", raw, ctx).retval
            assert action in (OK, SHOT, REDIRECT), (number, raw.hex())
            if action != SHOT:
                passed += 1
                assert judge.allows(raw), (number, raw.hex(), Ether(raw).summary())
    counted = sum(value[0] for value in world.counted().values())
    assert counted - before == COUNT + len(pool)
    return passed


@pytest.mark.parametrize("hook", ["to_workload", "from_proxy", "to_proxy"])
def test_mutated_packets_elsewhere(world: World, hook: str) -> None:
    one = world.workload("w1", 300)
    world.open(one)
    world.proxy("p1", 5)
    dice, pool = random.Random(SEED), seeds(one)
    interface = one.interface if hook == "to_workload" else world.node.interfaces["p1"]
    ctx = context(interface.index, world.out.index)
    with world.node.inside():
        for _ in range(2_000):
            raw = mutate(dice, pool)
            assert world.node.run(hook, raw, ctx).retval in (OK, SHOT, REDIRECT), raw.hex()
