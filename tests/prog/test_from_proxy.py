"""What proxies send: replies to their clients, and upstream legs in their present clients' name."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from scapy.layers.inet6 import ICMPv6ND_NS
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Packet

from pyagent.compiler.rows import Verdict
from pyagent.model import Protocol
from tests.prog.harness import EGRESS, INGRESS, OK, REDIRECT, Outcome, Workload, World
from tests.prog.packets import MAC, OUTSIDE, STRANGER, echo, ends, ip, numbered, tcp, udp

Pair = tuple[Workload, Workload]
FAMILIES = pytest.mark.parametrize("family", [4, 6])
TENANT, OTHER = 5, 6


@pytest.fixture
def pair(world: World) -> Pair:
    """w1 may reach w2's port 80, which is handed off to the proxy at p1, and nothing else."""
    one, other = world.workload("w1", 300), world.workload("w2", 301, tenant=TENANT)
    world.rule(one, EGRESS)
    world.rule(other, INGRESS, protocol=Protocol.TCP, port=80, verdict=Verdict.HANDOFF)
    world.proxy("p1", TENANT)
    return one, other


def speak(world: World, packet: Packet, name: str = "p1") -> Outcome:
    return world.send("from_proxy", packet, world.node.interfaces[name])


def serve(world: World, one: Workload, other: Workload, family: int) -> None:
    """The client's connection to the proxy."""
    there, here = (*ends(one, other, family), 4000, 80), (*ends(other, one, family), 80, 4000)
    assert world.leave(tcp(*there), one).stats == {"HANDOFFS": 1}
    assert speak(world, tcp(*here, "SA")).passed
    assert world.leave(tcp(*there, "A"), one).passed


@FAMILIES
def test_a_reply_to_the_client(world: World, pair: Pair, family: int) -> None:
    one, other = pair
    serve(world, one, other, family)
    here = (*ends(other, one, family), 80, 4000)
    seen = speak(world, tcp(*here, "PA", data=b"HTTP/1.1 200 OK"))
    assert (seen.action, seen.counted) == (REDIRECT, {("NONE", EGRESS, 0): 1})
    assert (seen.parsed.dst, seen.parsed.src) == (one.mac, one.interface.mac)
    assert speak(world, tcp(*here[:3], 4001, "A")).dropped("PROXY_SOURCE")
    assert speak(world, tcp(*here, "S")).dropped("PROXY_SOURCE")  # it answers, and opens nothing
    world.proxy("p2", OTHER)
    assert speak(world, tcp(*here, "A"), "p2").dropped("PROXY_SOURCE")


@FAMILIES
def test_upstream_in_the_clients_name(world: World, pair: Pair, family: int) -> None:
    one, other = pair
    serve(world, one, other, family)
    up, down = (*ends(one, other, family), 5000, 80), (*ends(other, one, family), 80, 5000)
    seen = speak(world, tcp(*up))
    assert (seen.action, seen.parsed.dst) == (REDIRECT, other.mac)
    assert seen.events[0]["verdict"] == Verdict.ALLOW
    answer = world.leave(tcp(*down, "SA"), other)
    assert (answer.action, answer.parsed.dst) == (REDIRECT, tcp(*down).dst)  # to the proxy
    assert speak(world, tcp(*up, "A")).passed
    # the client's own packet with these ends is not the proxy's
    assert world.leave(tcp(*up, "A"), one).dropped("PROXY_MIDSTREAM")
    assert {flow["leg"] for flow in world.flows()} == {0, 1}


@FAMILIES
def test_upstream_and_the_clients_leg_with_the_same_ends(
    world: World, pair: Pair, family: int
) -> None:
    one, other = pair
    serve(world, one, other, family)
    up, down = (*ends(one, other, family), 4000, 80), (*ends(other, one, family), 80, 4000)
    assert speak(world, tcp(*up)).parsed.dst == other.mac
    assert world.leave(tcp(*down, "SA"), other).parsed.dst == tcp(*down).dst
    assert speak(world, tcp(*down, "A")).parsed.dst == one.mac
    assert world.leave(tcp(*up, "A"), one).parsed.dst == tcp(*up).dst
    legs = {flow["leg"]: flow["packets"] for flow in world.flows()}
    assert legs == {1: (3, 2), 0: (1, 1)}


@FAMILIES
def test_nobody_but_a_present_client_is_spoken_for(world: World, pair: Pair, family: int) -> None:
    one, other = pair
    up = (*ends(one, other, family), 5000, 80)
    assert speak(world, tcp(*up)).dropped("PROXY_SOURCE")
    serve(world, one, other, family)
    third = world.workload("w3", 302)
    world.rule(third, EGRESS)
    node = {4: "10.9.9.9", 6: "fd00:9::9"}[family]
    world.node_address(node)
    for source in (ends(third, other, family)[0], OUTSIDE[family], node, up[1]):
        assert speak(world, tcp(source, up[1], 5000, 80)).dropped("PROXY_SOURCE")
    world.proxy("p2", OTHER)
    assert speak(world, tcp(*up), "p2").dropped("PROXY_SOURCE")  # another proxy's client
    key = {"proxy": world.node.interfaces["p1"].index, "client": ip_address(up[0])}
    seen = int(world.tables["proxy_clients"].get(key)["seen"])  # type: ignore[index]
    world.tables["proxy_clients"].put(key, {"seen": max(seen - 61_000_000_000, 0)})
    assert speak(world, tcp(*up)).dropped("PROXY_SOURCE")
    assert world.leave(tcp(*up[:2], 4000, 80, "A"), one).passed  # it is back
    assert speak(world, tcp(*up)).passed


def test_a_client_seen_by_another_cpu_just_now(world: World, pair: Pair) -> None:
    one, other = pair
    serve(world, one, other, 4)
    key = {"proxy": world.node.interfaces["p1"].index, "client": ip_address(one.v4)}
    seen = int(world.tables["proxy_clients"].get(key)["seen"])  # type: ignore[index]
    world.tables["proxy_clients"].put(key, {"seen": seen + 10_000_000_000})
    assert speak(world, tcp(one.v4, other.v4, 5000, 80)).passed


@FAMILIES
def test_policy_is_asked_as_the_client(world: World, pair: Pair, family: int) -> None:
    one, other = pair
    serve(world, one, other, family)
    third = world.workload("w3", 302)
    world.rule(third, INGRESS, peer=999)
    assert speak(world, tcp(*ends(one, other, family), 5000, 81)).dropped("POLICY_INGRESS")
    denied = speak(world, tcp(*ends(one, third, family), 5000, 80))
    assert denied.dropped("POLICY_INGRESS")
    assert list(denied.counted) == [("POLICY_INGRESS", INGRESS, 302)]
    up = (*ends(one, other, family), 5000, 80)
    assert speak(world, tcp(*up)).passed
    world.withdraw(world.rule(one, EGRESS))
    assert speak(world, tcp(*up, "A")).dropped("POLICY_EGRESS")
    reply = world.leave(tcp(*ends(other, one, family), 80, 5000, "A"), other)
    assert reply.dropped("POLICY_EGRESS")
    assert speak(world, tcp(*up[:2], 5001, 80)).dropped("POLICY_EGRESS")


@FAMILIES
def test_past_no_other_tenants_proxy(world: World, pair: Pair, family: int) -> None:
    one, other = pair
    serve(world, one, other, family)
    third = world.workload("w3", 302, tenant=OTHER)
    world.rule(third, INGRESS, protocol=Protocol.TCP, port=80, verdict=Verdict.HANDOFF)
    world.rule(third, INGRESS, protocol=Protocol.TCP, port=81)
    assert speak(world, tcp(*ends(one, third, family), 5000, 80)).dropped("PROXY_TENANT")
    assert speak(world, tcp(*ends(one, third, family), 5000, 81)).passed


@FAMILIES
def test_in_mid_stream_nothing_is_opened(world: World, pair: Pair, family: int) -> None:
    one, other = pair
    serve(world, one, other, family)
    for flags in ("A", "SA", "R", "FA"):
        packet = tcp(*ends(one, other, family), 5000, 80, flags)
        assert speak(world, packet).dropped("PROXY_MIDSTREAM")


@FAMILIES
def test_other_than_tcp(world: World, pair: Pair, family: int) -> None:
    one, other = pair
    serve(world, one, other, family)
    there = ends(one, other, family)
    for packet in (
        udp(*there, 5000, 80),
        echo(*there, 7),
        ip(*there, b"", **numbered(family, 47)),
    ):
        assert speak(world, packet).dropped("PROXY_PROTOCOL")
    for packet in (
        Ether(src=MAC) / ARP(psrc=one.v4),
        ip("fe80::1", "ff02::1", ICMPv6ND_NS(), hlim=255),
    ):
        assert speak(world, packet).dropped("PROXY_PROTOCOL")


@FAMILIES
def test_a_port_in_use_by_the_client(world: World, pair: Pair, family: int) -> None:
    one, other = pair
    serve(world, one, other, family)
    world.rule(other, INGRESS, protocol=Protocol.TCP, port=8080)
    direct = (*ends(one, other, family), 5000, 8080)
    for flags in ("S", "A"):
        assert world.leave(tcp(*direct, flags), one).passed
    for flags in ("S", "A"):
        assert speak(world, tcp(*direct, flags)).dropped("PROXY_COLLISION")
    assert world.leave(tcp(*direct, "A"), one).parsed.dst == other.mac  # untouched
    assert world.leave(tcp(*direct, "R"), one).passed
    assert speak(world, tcp(*direct)).passed  # it is over


@FAMILIES
def test_a_port_in_use_by_the_proxy(world: World, pair: Pair, family: int) -> None:
    """The client's own new connection must not take over the entry of the proxy's."""
    one, other = pair
    serve(world, one, other, family)
    world.rule(other, INGRESS, protocol=Protocol.TCP, port=8080)
    ends_ = (*ends(one, other, family), 5000, 8080)
    assert speak(world, tcp(*ends_)).passed
    for flags in ("S", "A"):
        assert world.leave(tcp(*ends_, flags), one).dropped("PROXY_COLLISION")
    assert speak(world, tcp(*ends_, "A")).passed
    reply = tcp(*ends(other, one, family), 8080, 5000, "A")
    assert world.leave(reply, other).parsed.dst == reply.dst  # still to the proxy
    assert speak(world, tcp(*ends_, "RA")).passed
    assert world.leave(tcp(*ends_), one).passed


@FAMILIES
def test_upstream_port_used_again(world: World, pair: Pair, family: int) -> None:
    one, other = pair
    serve(world, one, other, family)
    up = (*ends(one, other, family), 5000, 80)
    for flags in ("S", "A", "RA", "S", "S"):
        assert speak(world, tcp(*up, flags)).passed
    key = {"proxy": world.node.interfaces["p1"].index, "client": ip_address(up[0])}
    assert world.tables["proxy_clients"].delete(key)
    assert speak(world, tcp(*up, "RA")).passed
    assert speak(world, tcp(*up)).dropped("PROXY_SOURCE")  # the client is gone


@FAMILIES
def test_a_client_from_outside(world: World, pair: Pair, family: int) -> None:
    _, other = pair
    there = (*ends(OUTSIDE[family], other, family), 4000, 80)
    here = (*ends(other, OUTSIDE[family], family), 80, 4000)
    assert world.arrive(tcp(*there), other).stats == {"HANDOFFS": 1}
    assert speak(world, tcp(*here, "SA")).action == OK
    assert speak(world, tcp(*there[:2], 5000, 80)).parsed.dst == other.mac
    reply = world.leave(tcp(*here[:3], 5000, "SA"), other)
    assert (reply.action, reply.parsed.dst) == (REDIRECT, tcp(*here).dst)
    # to where no workload's policy has a say, it is not spoken for
    assert speak(world, tcp(OUTSIDE[family], STRANGER[family], 5000, 80)).dropped("PROXY_SOURCE")


@FAMILIES
def test_upstream_to_the_outside(world: World, family: int) -> None:
    one = world.workload("w1", 300, tenant=TENANT)
    world.rule(one, EGRESS, protocol=Protocol.TCP, port=80, verdict=Verdict.HANDOFF)
    world.proxy("p1", TENANT)
    there = (*ends(one, OUTSIDE[family], family), 4000, 80)
    assert world.leave(tcp(*there), one).stats == {"HANDOFFS": 1}
    assert speak(world, tcp(*there[:2], 5000, 80)).action == OK
    down = (*ends(OUTSIDE[family], one, family), 80, 5000)
    reply = world.arrive(tcp(*down, "SA"), one)
    assert (reply.action, reply.parsed.dst) == (REDIRECT, "02:51:00:00:01:01")
    assert world.arrive(tcp(*down[:3], 5001, "SA"), one).dropped("POLICY_INGRESS")
