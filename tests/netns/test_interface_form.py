"""Workloads whose interfaces a user has wired: routed veth pairs and bridges, beside Sluice's own.

Neighbours are found by ARP and NDP, as on any Ethernet. "lan" is a bridge on which the node has
addresses and is the router; on "island" it has none, so its two workloads reach each other only.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import permutations

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import ICMPv6ND_NA, ICMPv6ND_NS, ICMPv6NDOptDstLLAddr, IPv6
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Raw

from tests.netns import wires
from tests.netns.node import Netns, Node, ip, policy, tenant, wait_for, workload
from tests.netns.traffic import (
    PATIENCE,
    Frames,
    dropped,
    handoffs,
    http,
    open_socket,
    ping,
    tcp,
    tcp_dropped,
    udp,
    udp_dropped,
)

ADDRESSES = {
    "routed": ("192.0.2.34", "2001:db8:2::2"),
    "left": ("10.211.0.1", "fd00:211::1"),
    "right": ("10.211.0.2", "fd00:211::2"),
    "made": ("10.201.0.1", "fd00:201::1"),
    "near": ("10.212.0.1", "fd00:212::1"),
    "far": ("10.212.0.2", "fd00:212::2"),
    "world": ("192.0.2.18", "2001:db8:1::2"),
    "node": ("10.200.0.1", "fd00:200::1"),
}
INTERFACES = {
    "routed": "vrouted",
    "left": "vleft",
    "right": "vright",
    "near": "vnear",
    "far": "vfar",
}
CONNECTED = ("routed", "left", "right", "made", "world")
PAIRS = [*permutations(CONNECTED, 2), ("near", "far"), ("far", "near")]
MARK = b"forged by the test"


@dataclass(frozen=True)
class Site:
    """The node and its hosts by name."""

    node: Node
    hosts: dict[str, Netns]


@pytest.fixture(scope="module", params=(0, 1), ids=("ipv4", "ipv6"))
def of(request: pytest.FixtureRequest) -> int:
    """Which of a host's two addresses."""
    return int(request.param)


def wire(site: Site) -> None:
    node, hosts = site.node, site.hosts
    strictly = "sysctl -qw net.ipv4.conf.all.rp_filter=1"  # as some distributions have it
    assert node.run(*strictly.split()).returncode == 0
    wires.routed(node, "up0", hosts["world"], 1)
    wires.routed(node, "vrouted", hosts["routed"], 2)
    for name in ("lan", "island"):
        wires.bridge(node, name)
    wires.give(node, "lan", "10.211.0.254/24", "fd00:211::fe/64")
    for bridge, name in (("lan", "left"), ("lan", "right"), ("island", "near"), ("island", "far")):
        wires.plug(node, bridge, INTERFACES[name], hosts[name])
        ipv4, ipv6 = ADDRESSES[name]
        wires.give(hosts[name], "eth0", f"{ipv4}/24", f"{ipv6}/64")
        if bridge == "lan":
            wires.route(hosts[name], "default", "10.211.0.254")
            wires.route(hosts[name], "default", "fd00:211::fe")


@pytest.fixture(scope="module")
def site(shared_node: Node) -> Iterator[Site]:
    names = [name for name in ADDRESSES if name != "node"]
    site = Site(shared_node, {name: shared_node.host(name) for name in names})
    wire(site)
    manifests = [workload(site.hosts["made"], "shop", "made", ADDRESSES["made"])]
    for name, interface in INTERFACES.items():
        manifest = workload(site.hosts[name], "shop", name, ADDRESSES[name], interface=interface)
        del manifest["spec"]["netns"]
        manifests.append(manifest)
    strangers = [
        {
            "podSelector": {
                "matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["left"]}]
            }
        }
    ]
    not_left = policy(
        "shop",
        "closed-port",
        podSelector={"matchLabels": {"app": "right"}},
        ingress=[
            {"ports": [{"port": 5000}, {"port": 5000, "protocol": "UDP"}, {"port": 80}]},
            {"from": strangers},
            {
                "from": [
                    {"ipBlock": {"cidr": cidr}} for cidr in ("10.200.0.0/15", "fd00:211::1/128")
                ],
                "ports": [{"port": 7, "protocol": "UDP"}],
            },
        ],
    )
    shared_node.write("all.yaml", tenant("shop", 80), not_left, *manifests)
    shared_node.start_agent()
    for name in names:
        site.hosts[name].serve(tcp=[5000, 5001], udp=[5000, 5001], http=[80, 8080])
    yield site


@pytest.mark.parametrize(("client", "server"), PAIRS)
def test_everybody_reaches_everybody(site: Site, client: str, server: str, of: int) -> None:
    source, destination = ADDRESSES[client][of], ADDRESSES[server][of]
    assert tcp(site.hosts[client], destination, 5000) == source
    assert udp(site.hosts[client], destination, 5000) == source
    assert udp(site.hosts[client], destination, 5000, size=9000) == source
    if server != "right":
        assert ping(site.hosts[client], destination) == destination


@pytest.mark.parametrize("name", ("routed", "left", "right", "made"))
def test_the_node_and_its_workloads_reach_each_other(site: Site, name: str, of: int) -> None:
    own = ADDRESSES["node"][of]
    assert tcp(site.node, ADDRESSES[name][of], 5001, source=own) == own
    assert ping(site.node, ADDRESSES[name][of], source=own) == ADDRESSES[name][of]
    assert ping(site.hosts[name], own) == own


def test_neighbours_were_found_on_the_wire(site: Site, of: int) -> None:
    for name in ("routed", "left", "near"):
        table = json.loads(ip("-n", site.hosts[name].name, "-j", f"-{(4, 6)[of]}", "neigh"))
        assert any("lladdr" in entry for entry in table)
        assert not any("PERMANENT" in entry["state"] for entry in table)


@pytest.mark.parametrize("client", ("left", "routed", "made"))
def test_policy_holds_on_a_bridge_and_beside_it(site: Site, client: str, of: int) -> None:
    destination = ADDRESSES["right"][of]
    if client == "left":
        tcp_dropped(site.node, "policy_ingress", site.hosts["left"], destination, 5001)
        udp_dropped(site.node, "policy_ingress", site.hosts["left"], destination, 5001)
    else:
        assert tcp(site.hosts[client], destination, 5001) == ADDRESSES[client][of]


def test_a_broadcast_is_judged_at_each_receiver(site: Site) -> None:
    """On the bridge, and from the node, which is not on the bridge's other side."""
    with open_socket(site.hosts["left"], ADDRESSES["right"][0], socket.SOCK_DGRAM) as sender:
        sender.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        with Frames(site.hosts["right"]) as right:
            with dropped(site.node, "policy_ingress"):
                sender.sendto(MARK, ("10.211.0.255", 5001))
            sender.sendto(MARK, ("10.211.0.255", 5000))
            frames = wait_for(lambda: [f for f in right.seen() if MARK in f], "the other", PATIENCE)
            assert [int.from_bytes(frame[36:38]) for frame in frames] == [5000]


HANDED_OFF = [
    *(
        (client, server)
        for client in ("world", "routed", "left", "made")
        for server in ("routed", "right", "made")
        if client != server
    ),
    ("routed", "world"),
    ("left", "world"),
    ("made", "world"),
    ("near", "far"),
]


@pytest.mark.parametrize(("client", "server"), HANDED_OFF)
def test_http_is_handed_off_and_the_server_sees_the_client(
    site: Site, client: str, server: str, of: int
) -> None:
    """From outside to a workload, from a workload to the outside, and between workloads."""
    before = handoffs(site.node)
    destination = ADDRESSES[server][of]
    for body in (b"", bytes(200_000)):
        answer = http(site.hosts[client], destination, method="POST", body=body)
        assert answer.status == 200
        assert answer.said["client"] == ADDRESSES[client][of]
        assert answer.said["bytes"] == len(body)
    assert handoffs(site.node) == before + 2
    if server != "right" or client in ("routed", "made"):  # the others may use 80 and 5000 alone
        assert http(site.hosts[client], destination, 8080).said["client"] == ADDRESSES[client][of]
    assert handoffs(site.node) == before + 2


def test_the_node_is_not_handed_off(site: Site, of: int) -> None:
    before = handoffs(site.node)
    own = ADDRESSES["node"][of]
    for name in ("routed", "right", "made"):
        assert http(site.node, ADDRESSES[name][of], source=own).said["client"] == own
    assert handoffs(site.node) == before


def test_one_large_download_from_outside_through_the_proxy(site: Site, of: int) -> None:
    for client, server in (("world", "right"), ("left", "world"), ("world", "made")):
        answer = http(site.hosts[client], ADDRESSES[server][of], path="/download?bytes=20000000")
        assert len(answer.body) == 20_000_000


def mac_of(site: Site, name: str) -> str:
    [link] = json.loads(ip("-n", site.hosts[name].name, "-j", "link", "show", "eth0"))
    return str(link["address"])


@pytest.mark.parametrize("claimed", ("right", "gateway"))
def test_a_workload_on_a_bridge_is_its_own_neighbour_only(
    site: Site, claimed: str, of: int
) -> None:
    """Nobody on the bridge hears the claim, and nobody believes it."""
    own = mac_of(site, "left")
    address = {"right": ADDRESSES["right"], "gateway": ("10.211.0.254", "fd00:211::fe")}[claimed][
        of
    ]
    everybody = Ether(src=own, dst="ff:ff:ff:ff:ff:ff")
    if of == 0:
        claims = [
            everybody / ARP(op=op, hwsrc=own, psrc=address, pdst=target)
            for op, target in ((1, address), (2, address), (2, ADDRESSES["right"][0]))
        ]
    else:
        claims = [
            everybody
            / IPv6(src=ADDRESSES["left"][1], dst="ff02::1", hlim=255)
            / ICMPv6ND_NA(tgt=address, O=1, S=0)
            / ICMPv6NDOptDstLLAddr(lladdr=own),
            everybody / IPv6(src=address, dst="ff02::1", hlim=255) / ICMPv6ND_NS(tgt="fd00:211::9"),
        ]
    with Frames(site.hosts["left"]) as left, Frames(site.hosts["right"]) as right:
        for claim in claims:
            with dropped(site.node, "neighbour"):
                left.send(claim)
        assert not [frame for frame in right.seen() if frame[6:12] == left.mac]
    assert own not in json.dumps(
        json.loads(ip("-n", site.node.name, "-j", "neigh", "show", address))
    )
    assert udp(site.hosts["world"], ADDRESSES["right"][of], 5000) == ADDRESSES["world"][of]


@pytest.mark.parametrize("claimed", ("right", "made", "node", "world"))
def test_a_workload_on_a_bridge_speaks_for_itself_only(site: Site, claimed: str, of: int) -> None:
    layer = (IP, IPv6)[of]
    with Frames(site.hosts["left"]) as left, Frames(site.hosts["right"]) as right:
        for port in (5000, 80):
            packet = layer(src=ADDRESSES[claimed][of], dst=ADDRESSES["right"][of])
            frame = Ether(dst=mac_of(site, "right")) / packet / UDP(sport=9, dport=port) / Raw(MARK)
            with dropped(site.node, "source"):
                left.send(frame)
        assert not [frame for frame in right.seen() if MARK in frame]


def test_a_frame_that_a_bridge_sends_the_wrong_way_reaches_nobody_else(site: Site, of: int) -> None:
    """A workload that takes another's MAC has the bridge send it frames that are not for it."""
    layer = (IP, IPv6)[of]
    own = layer(src=ADDRESSES["left"][of], dst=ADDRESSES["world"][of])
    with Frames(site.hosts["left"]) as left:
        left.send(Ether(src=mac_of(site, "right"), dst=mac_of(site, "left")) / own / UDP(dport=9))
        left.seen()
        with (
            open_socket(site.node, ADDRESSES["right"][of], socket.SOCK_DGRAM) as sender,
            dropped(site.node, "destination"),
        ):
            sender.sendto(MARK, (ADDRESSES["right"][of], 5000))
        assert not [frame for frame in left.seen() if MARK in frame]
    assert ping(site.hosts["right"], ADDRESSES["left"][of])  # the bridge learns better


def test_what_is_for_an_address_that_is_not_declared_does_not_get_in(site: Site, of: int) -> None:
    """No policy can speak of it."""
    undeclared = ("10.211.0.77", "fd00:211::77")[of]
    wires.give(site.hosts["left"], "eth0", f"{undeclared}/{(24, 64)[of]}")
    with Frames(site.hosts["left"]) as left:
        ip("-n", site.node.name, "neigh", "replace", undeclared, "dev", "lan", "lladdr", mac(left))
        udp_dropped(site.node, "destination", site.hosts["world"], undeclared, 5000)
        assert not [frame for frame in left.seen() if b"hello" in frame]
    family = ("-4", "-6")[of]
    prefix = f"{undeclared}/{(24, 64)[of]}"
    ip("-n", site.hosts["left"].name, family, "addr", "del", prefix, "dev", "eth0")


def mac(wire: Frames) -> str:
    """The MAC of the interface that is watched."""
    return ":".join(f"{byte:02x}" for byte in wire.mac)
