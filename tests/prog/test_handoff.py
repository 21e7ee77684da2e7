"""Early handoff: what policy hands off goes to the tenant's proxy from its SYN on, or nowhere."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from scapy.layers.inet import ICMP, IP, TCP
from scapy.layers.inet6 import ICMPv6DestUnreach, IPv6
from scapy.packet import Packet

from pyagent.compiler.rows import Verdict
from pyagent.model import Protocol
from tests.prog.harness import (
    CLIENT_LEG,
    EGRESS,
    INGRESS,
    OK,
    REDIRECT,
    SHOT,
    TYPES,
    Outcome,
    Workload,
    World,
)
from tests.prog.packets import OUTSIDE, back, ends, ip, tcp, udp

Pair = tuple[Workload, Workload]
FAMILIES = pytest.mark.parametrize("family", [4, 6])
TENANT = 5


@pytest.fixture
def pair(world: World) -> Pair:
    """w2 belongs to a tenant that has TCP port 80 handed off; everything else is allowed."""
    one, other = world.workload("w1", 300, tenant=4), world.workload("w2", 301, tenant=TENANT)
    world.open(one, other)
    world.rule(
        other,
        INGRESS,
        protocol=Protocol.TCP,
        port=80,
        verdict=Verdict.HANDOFF,
        number=9,
        precedence=2,
    )
    return one, other


@FAMILIES
def test_a_syn_goes_to_the_proxy(world: World, pair: Pair, family: int) -> None:
    one, other = pair
    proxy = world.proxy("p1", TENANT)
    there = (*ends(one, other, family), 4000, 80)
    packet = tcp(*there)
    seen = world.leave(packet, one)
    assert (seen.action, seen.reason, seen.stats) == (REDIRECT, "NONE", {"HANDOFFS": 1})
    assert seen.packet == bytes(packet)  # the MACs too: the proxy takes it for its own
    (event,) = seen.events
    assert (event["type"], event["verdict"]) == (TYPES["HANDOFF"], Verdict.HANDOFF)
    assert (event["tenant"], event["rule"]) == (TENANT, 9)
    (flow,) = world.flows()
    assert (flow["leg"], flow["proxy"], flow["tenant"]) == (CLIENT_LEG, proxy, TENANT)
    assert world.clients() == [(proxy, there[0])]
    for flags in ("S", "A", "PA"):  # once more, and on
        again = world.leave(tcp(*there, flags), one)
        assert (again.action, again.events, again.stats) == (REDIRECT, [], {})
    assert len(world.flows()) == 1


@FAMILIES
def test_in_mid_stream_it_is_refused(world: World, pair: Pair, family: int) -> None:
    one, other = pair
    world.proxy("p1", TENANT)
    there = (*ends(one, other, family), 4000, 80)
    for flags in ("A", "PA", "SA", "R", "FA"):
        assert world.leave(tcp(*there, flags), one).dropped("PROXY_MIDSTREAM")
    assert world.flows() == [] and world.clients() == []


@FAMILIES
@pytest.mark.parametrize("how", ["not ready", "no proxy", "no tenant"])
def test_proxy_not_ready_and_closed(world: World, pair: Pair, family: int, how: str) -> None:
    one, other = pair
    if how == "not ready":
        world.proxy("p1", TENANT, ready=False)
    elif how == "no proxy":
        world.tables["tenants"].put({"tenant": TENANT}, {"proxy": 0, "ready": 1})
    seen = world.leave(tcp(*ends(one, other, family), 4000, 80), one)
    assert (seen.reason, seen.action) == ("PROXY_NOT_READY", REDIRECT)
    (event,) = seen.events
    assert event["type"] == TYPES["DROP"]
    assert world.flows() == []
    outside = tcp(*ends(OUTSIDE[family], other, family), 4000, 80)
    assert world.arrive(outside, other).dropped("PROXY_NOT_READY")


def expected_reset(got: Packet) -> Packet:
    """RFC 9293, 3.10.7.1, as scapy makes it."""
    layer, segment = got[IPv6 if IPv6 in got else IP], got[TCP]
    answer = TCP(sport=segment.dport, dport=segment.sport, window=0)
    if "A" in segment.flags:
        answer.flags, answer.seq = "R", segment.ack
    else:
        answer.flags = "RA"
        answer.ack = segment.seq + len(segment.payload) + 1
    fields = {} if IPv6 in got else {"flags": "DF", "id": 0}
    made = ip(layer.dst, layer.src, answer, **fields)
    made.src, made.dst = got.dst, got.src
    return made


@FAMILIES
@pytest.mark.parametrize("data", [b"", b"GET / HTTP/1.1"])
def test_the_reset(world: World, pair: Pair, family: int, data: bytes) -> None:
    one, other = pair
    world.proxy("p1", TENANT, ready=False)
    got = tcp(*ends(one, other, family), 4000, 80, data=data)
    got[TCP].options = [("MSS", 1460), ("Timestamp", (1, 2)), ("WScale", 7)]
    assert world.leave(got, one).packet == bytes(expected_reset(got))
    if family == 4:
        with_options = tcp(*ends(one, other, family), 4000, 80, data=data, options=b"\x94\x04\0\0")
        assert world.leave(with_options, one).packet == bytes(expected_reset(with_options))
    padded = bytes(got) + bytes(20)
    assert world.leave(padded, one).packet == bytes(expected_reset(got))


@FAMILIES
def test_the_reset_when_the_proxy_is_taken_away(world: World, pair: Pair, family: int) -> None:
    one, other = pair
    proxy = world.proxy("p1", TENANT)
    there = (*ends(one, other, family), 4000, 80)
    assert world.leave(tcp(*there), one).passed
    world.tables["proxies"].delete({"ifindex": proxy})
    got = tcp(*there, "PA", data=b"GET /")
    seen = world.leave(got, one)
    assert (seen.reason, seen.action) == ("PROXY_NOT_READY", REDIRECT)
    assert seen.packet == bytes(expected_reset(got))
    reset = world.leave(tcp(*there, "R"), one)
    assert reset.dropped("PROXY_NOT_READY")  # a reset is never answered


def test_a_syn_finds_the_new_proxy(world: World, pair: Pair) -> None:
    one, other = pair
    old = world.proxy("p1", TENANT)
    there = (*ends(one, other, 4), 4000, 80)
    assert world.leave(tcp(*there), one).passed
    world.tables["proxies"].delete({"ifindex": old})
    new = world.proxy("p2", TENANT)
    assert world.leave(tcp(*there), one).passed
    (flow,) = world.flows()
    assert flow["proxy"] == new


@FAMILIES
def test_proxy_not_ready_and_open(world: World, pair: Pair, family: int) -> None:
    one, other = pair
    world.proxy("p1", TENANT, ready=False, fail_open=True)
    there = (*ends(one, other, family), 4000, 80)
    seen = world.leave(tcp(*there), one)
    assert (seen.passed, seen.stats) == (True, {"FAILED_OPEN": 1})
    assert seen.parsed.dst == other.mac
    assert seen.events[0]["verdict"] == Verdict.ALLOW
    world.proxy("p1", TENANT)
    for flags in ("A", "PA"):  # it ends as it began
        assert world.leave(tcp(*there, flags), one).parsed.dst == other.mac
    assert world.leave(tcp(*there[:2], 4001, 80, "A"), one).dropped("PROXY_MIDSTREAM")
    (flow,) = world.flows()
    assert (flow["proxy"], flow["tenant"]) == (0, 0)


@FAMILIES
def test_from_outside(world: World, pair: Pair, family: int) -> None:
    _, other = pair
    proxy = world.proxy("p1", TENANT)
    packet = tcp(*ends(OUTSIDE[family], other, family), 4000, 80)
    seen = world.arrive(packet, other)
    assert (seen.action, seen.stats) == (REDIRECT, {"HANDOFFS": 1})
    assert seen.parsed.dst == "02:51:00:00:01:01"  # the proxy's own, or it would not take it
    assert bytes(seen.parsed)[6:] == bytes(packet)[6:]
    assert world.clients() == [(proxy, OUTSIDE[family])]


@FAMILIES
def test_by_the_sources_tenant_to_the_outside(world: World, family: int) -> None:
    one = world.workload("w1", 300, tenant=TENANT)
    world.rule(one, EGRESS, protocol=Protocol.TCP, port=80, verdict=Verdict.HANDOFF)
    proxy = world.proxy("p1", TENANT)
    assert world.leave(tcp(*ends(one, OUTSIDE[family], family), 4000, 80), one).passed
    (flow,) = world.flows()
    assert (flow["proxy"], flow["leg"]) == (proxy, CLIENT_LEG)


def test_only_tcp_is_handed_off(world: World, pair: Pair) -> None:
    one, other = pair
    world.proxy("p1", TENANT)
    world.rule(other, INGRESS, verdict=Verdict.HANDOFF, precedence=2)
    assert world.leave(udp(*ends(one, other, 4), 4000, 80), one).dropped("PROXY_MIDSTREAM")


@FAMILIES
def test_a_port_turns_while_in_use(world: World, pair: Pair, family: int) -> None:
    one, other = pair
    world.proxy("p1", TENANT)
    key = {"protocol": Protocol.TCP, "port": 8080, "precedence": 3}
    old, new = (*ends(one, other, family), 4000, 8080), (*ends(one, other, family), 4001, 8080)
    assert world.leave(tcp(*old), one).stats == {}
    row = world.rule(other, INGRESS, verdict=Verdict.HANDOFF, **key)
    world.tables.move_revision()
    assert world.leave(tcp(*old, "A"), one).parsed.dst == other.mac
    assert world.leave(tcp(*new), one).stats == {"HANDOFFS": 1}
    world.withdraw(row)
    untouched = world.leave(tcp(*new, "A"), one)
    assert (untouched.action, untouched.parsed.dst) == (REDIRECT, tcp(*new).dst)
    assert world.leave(tcp(*old, "A"), one).parsed.dst == other.mac
    world.withdraw(world.rule(other, INGRESS))  # nothing is allowed any more
    for packet in (tcp(*new, "A"), tcp(*old, "A")):
        assert world.leave(packet, one).dropped("POLICY_INGRESS")


@FAMILIES
def test_a_new_connection_leaves_the_old_leg(world: World, pair: Pair, family: int) -> None:
    """The same ends once with and once without the proxy: nothing of the earlier one is left."""
    one, other = pair
    world.proxy("p1", TENANT)
    key = {"protocol": Protocol.TCP, "port": 8080, "precedence": 3}
    there = (*ends(one, other, family), 4000, 8080)
    for flags in ("S", "A", "RA"):
        assert world.leave(tcp(*there, flags), one).stats == {}
    row = world.rule(other, INGRESS, verdict=Verdict.HANDOFF, **key)
    world.tables.move_revision()
    assert world.leave(tcp(*there), one).stats == {"HANDOFFS": 1}
    assert [flow["leg"] for flow in world.flows()] == [CLIENT_LEG]
    assert world.leave(tcp(*there, "A"), one).parsed.dst == tcp(*there).dst
    assert world.leave(tcp(*there, "RA"), one).passed
    world.withdraw(row)
    assert world.leave(tcp(*there), one).parsed.dst == other.mac
    assert [flow["leg"] for flow in world.flows()] == [0]


@FAMILIES
def test_errors_about_the_clients_leg(world: World, pair: Pair, family: int) -> None:
    """What the client says about the proxy's packets goes to the proxy, and keeps nobody alive."""
    one, other = pair
    proxy = world.proxy("p1", TENANT)
    there = (*ends(one, other, family), 4000, 80)
    assert world.leave(tcp(*there), one).passed
    world.tables["proxy_clients"].delete({"proxy": proxy, "client": ip_address(there[0])})
    kind = ICMP(type=3, code=4) if family == 4 else ICMPv6DestUnreach()
    quoted = bytes(back(tcp(*there)))[14:]
    seen = world.leave(ip(there[0], there[1], kind / quoted), one)
    assert (seen.action, seen.reason) == (REDIRECT, "NONE")
    assert world.clients() == []


def to_listener(world: World, packet: Packet | bytes) -> Outcome:
    return world.send("to_proxy", packet, world.node.interfaces["p1"])


@FAMILIES
def test_nobody_listens(world: World, family: int) -> None:
    pair = ends({4: "10.1.0.1", 6: "fd00:1::1"}[family], OUTSIDE[family], family)
    packet = tcp(*pair, 4000, 80)
    seen = to_listener(world, packet)
    # it has become the reset that tells the client
    assert (seen.action, seen.reason) == (REDIRECT, "NO_LISTENER")
    assert to_listener(world, bytes(packet)[:-1]).action == SHOT
    for other in (udp(*pair, 4000, 80), ip(*pair, b"")):
        left_alone = to_listener(world, other)
        assert (left_alone.action, left_alone.counted) == (OK, {})
