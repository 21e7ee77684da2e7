"""Nobody sends from an address that is not its own: forged frames are dropped and counted."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import (
    ICMPv6EchoRequest,
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6ND_RA,
    ICMPv6ND_Redirect,
    ICMPv6NDOptDstLLAddr,
    ICMPv6NDOptSrcLLAddr,
    IPv6,
)
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.packet import Packet, Raw

from tests.netns import wires
from tests.netns.node import Netns, Node, ip, policy, wait_for, workload
from tests.netns.traffic import PATIENCE, Frames, tcp

MARK = b"forged by the test"
ADDRESSES = {
    "thief": ("10.201.0.1", "fd00:201::1"),
    "friend": ("10.201.0.2", "fd00:201::2"),
    "victim": ("10.201.0.3", "fd00:201::3"),
    "world": ("192.0.2.18", "2001:db8:1::2"),
    "node": ("10.200.0.1", "fd00:200::1"),
    "uplink": ("192.0.2.17", "2001:db8:1::1"),
    "nobody": ("203.0.113.5", "2001:db8:dead::5"),
    "loopback": ("127.0.0.1", "::1"),
    "unspecified": ("0.0.0.0", "::"),
    "multicast": ("224.0.0.1", "ff02::1"),
}
PROTOCOLS: dict[str, Callable[[], Packet]] = {
    "tcp": lambda: TCP(sport=4000, dport=5000, flags="S") / Raw(MARK),
    "udp": lambda: UDP(sport=4000, dport=5000) / Raw(MARK),
    "echo4": lambda: ICMP(id=7) / Raw(MARK),
    "echo6": lambda: ICMPv6EchoRequest(id=7, data=MARK),
}


@dataclass(frozen=True)
class Site:
    """The node, its hosts, and the MACs of their gateways. The victim takes packets from the friend
    alone."""

    node: Node
    hosts: dict[str, Netns]
    next_hop: dict[str, str]


def find_next_hop(host: Netns) -> str:
    """The MAC of the host's gateway."""
    entries = json.loads(ip("-n", host.name, "-j", "-4", "neigh"))
    return str(next(entry["lladdr"] for entry in entries if "lladdr" in entry))


@pytest.fixture(scope="module")
def site(shared_node: Node) -> Iterator[Site]:
    node = shared_node
    hosts = {name: node.host(name) for name in ("thief", "friend", "victim", "world")}
    wires.routed(node, "up0", hosts["world"], 1)
    friends = [{"podSelector": {"matchLabels": {"app": "friend"}}}]
    node.write(
        "all.yaml",
        *(
            workload(hosts[name], "shop", name, ADDRESSES[name])
            for name in ("thief", "friend", "victim")
        ),
        policy(
            "shop",
            "victim",
            podSelector={"matchLabels": {"app": "victim"}},
            ingress=[{"from": friends}],
        ),
    )
    node.start_agent()
    hosts["victim"].serve(tcp=[5000])
    for of in (0, 1):  # also fills the neighbour tables of the wire to the world
        assert tcp(hosts["friend"], ADDRESSES["victim"][of], 5000) == ADDRESSES["friend"][of]
        with pytest.raises(ConnectionRefusedError):
            tcp(hosts["world"], ADDRESSES["friend"][of], 5000)
    next_hop = {name: find_next_hop(hosts[name]) for name in ("thief", "friend", "world")}
    yield Site(node, hosts, next_hop)


def forge(version: int, source: str, destination: str, protocol: str) -> Packet:
    """A packet between named addresses."""
    of = version // 2 - 2
    kind = f"echo{version}" if protocol == "echo" else protocol
    packet = (IP, IPv6)[of](src=ADDRESSES[source][of], dst=ADDRESSES[destination][of])
    return packet / PROTOCOLS[kind]()


def send_and_expect(
    site: Site, sender: str, frame: Packet, reason: str, watched: tuple[str, ...] = ("victim",)
) -> None:
    """Fails unless exactly this frame is dropped, for this reason, and nobody sees it."""
    watching = {name: Frames(site.hosts[name]) for name in watched}
    before = site.node.drops().get(reason, 0)
    with Frames(site.hosts[sender]) as wire:
        wire.send(frame)
    wait_for(lambda: site.node.drops().get(reason, 0) > before, f"{reason}: {frame!r}", PATIENCE)
    for name, frames in watching.items():
        with frames:
            assert not [seen for seen in frames.seen() if MARK in seen], name


@pytest.mark.parametrize("version", (4, 6))
@pytest.mark.parametrize("protocol", ("tcp", "udp", "echo"))
@pytest.mark.parametrize(
    "claimed",
    ("friend", "victim", "node", "world", "nobody", "loopback", "unspecified", "multicast"),
)
def test_a_workload_speaks_for_itself_only(
    site: Site, claimed: str, protocol: str, version: int
) -> None:
    for destination in ("victim", "world"):
        frame = Ether(dst=site.next_hop["thief"]) / forge(version, claimed, destination, protocol)
        send_and_expect(site, "thief", frame, "source", ("victim", "world"))


@pytest.mark.parametrize("version", (4, 6))
def test_its_own_address_is_judged_by_policy(site: Site, version: int) -> None:
    """What the forged frames lack is nothing but the right to their source."""
    node = site.next_hop["thief"]
    frame = Ether(dst=node) / forge(version, "thief", "victim", "udp")
    send_and_expect(site, "thief", frame, "policy_ingress")
    frame = Ether(dst=site.next_hop["friend"]) / forge(version, "friend", "victim", "udp")
    with Frames(site.hosts["victim"]) as victim, Frames(site.hosts["friend"]) as wire:
        wire.send(frame)
        wait_for(lambda: [seen for seen in victim.seen() if MARK in seen], "the frame", PATIENCE)


@pytest.mark.parametrize("version", (4, 6))
@pytest.mark.parametrize("protocol", ("tcp", "udp", "echo"))
@pytest.mark.parametrize("claimed", ("friend", "victim", "node", "uplink"))
def test_a_host_outside_speaks_for_no_workload_and_not_for_the_node(
    site: Site, claimed: str, protocol: str, version: int
) -> None:
    frame = Ether(dst=site.next_hop["world"]) / forge(version, claimed, "victim", protocol)
    if version == 6 or claimed in ("friend", "victim"):
        send_and_expect(site, "world", frame, "source")
        return
    # The kernel takes an IPv4 packet from an address of its own for a martian before Sluice
    # sees it. What goes the same way after it has been dropped, so it has gone before.
    with Frames(site.hosts["victim"]) as victim:
        with Frames(site.hosts["world"]) as wire:
            wire.send(frame)
        after = Ether(dst=site.next_hop["world"]) / forge(version, "world", "victim", protocol)
        send_and_expect(site, "world", after, "policy_ingress")
        assert not [seen for seen in victim.seen() if MARK in seen]


@pytest.mark.parametrize("version", (4, 6))
def test_a_tag_does_not_hide_a_packet(site: Site, version: int) -> None:
    packet = forge(version, "thief", "victim", "udp")
    frame = Ether(dst=site.next_hop["thief"]) / Dot1Q(vlan=5) / packet
    send_and_expect(site, "thief", frame, "protocol")


def claims(own: str) -> dict[str, Packet]:
    """Frames that would have neighbours believe that `own` is the friend's MAC, or a router's."""
    friend, victim = ADDRESSES["friend"], ADDRESSES["victim"]
    to_all = Ether(dst="ff:ff:ff:ff:ff:ff")
    to_all6 = Ether(dst="33:33:00:00:00:01")
    as_itself = IPv6(src=ADDRESSES["thief"][1], dst="ff02::1", hlim=255)
    as_friend = IPv6(src=friend[1], dst="ff02::1", hlim=255)
    as_nobody = IPv6(src="::", dst="ff02::1", hlim=255)
    sender = ICMPv6NDOptSrcLLAddr(lladdr=own)
    target = ICMPv6NDOptDstLLAddr(lladdr=own)
    return {
        "ARP reply": to_all / ARP(op=2, hwsrc=own, psrc=friend[0], pdst=victim[0]),
        "ARP request": to_all / ARP(op=1, hwsrc=own, psrc=friend[0], pdst=victim[0]),
        "gratuitous ARP": to_all / ARP(op=1, hwsrc=own, psrc=friend[0], pdst=friend[0]),
        "ARP as the gateway": to_all / ARP(op=2, hwsrc=own, psrc="169.254.1.1", pdst=victim[0]),
        "advertisement": to_all6 / as_itself / ICMPv6ND_NA(tgt=friend[1], O=1) / target,
        "solicitation": to_all6 / as_friend / ICMPv6ND_NS(tgt=victim[1]) / sender,
        "duplicate address detection": to_all6 / as_nobody / ICMPv6ND_NS(tgt=friend[1]),
        "router advertisement": to_all6 / as_itself / ICMPv6ND_RA() / sender,
        "redirect": to_all6
        / as_itself
        / ICMPv6ND_Redirect(tgt=ADDRESSES["thief"][1], dst=ADDRESSES["world"][1]),
    }


@pytest.mark.parametrize("claim", claims("02:00:00:00:00:01"))
def test_a_workload_is_its_own_neighbour_only(site: Site, claim: str) -> None:
    with Frames(site.hosts["thief"]) as wire:
        own = ":".join(f"{byte:02x}" for byte in wire.mac)
    send_and_expect(site, "thief", claims(own)[claim], "neighbour")
