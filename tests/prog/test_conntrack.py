"""Flows: replies pass, verdicts live as long as the policy's revision, TCP's states, timeouts."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from scapy.packet import Packet

from pyagent.compiler.rows import Verdict
from pyagent.model import Protocol
from tests.prog.harness import EGRESS, INGRESS, STATES, Workload, World
from tests.prog.packets import OUTSIDE, back, echo, ends, tcp, udp

Pair = tuple[Workload, Workload]
FAMILIES = pytest.mark.parametrize("family", [4, 6])
DAYS = 24 * 3600


@pytest.fixture
def pair(world: World) -> Pair:
    """w1 may send to w2 and to the outside; nobody may send to w1."""
    one, other = world.workload("w1", 300), world.workload("w2", 301)
    world.rule(one, EGRESS)
    world.rule(other, INGRESS, peer=300)
    return one, other


def state(world: World) -> str:
    (flow,) = world.flows()
    return next(name for name, number in STATES.items() if number == flow["state"])


@FAMILIES
@pytest.mark.parametrize("make", [tcp, udp])
def test_a_reply_needs_no_rule(
    world: World, pair: Pair, family: int, make: Callable[..., Packet]
) -> None:
    one, other = pair
    packet = make(*ends(one, other, family), 4000, 80)
    assert world.leave(back(packet), other).dropped("POLICY_EGRESS")  # unsolicited
    assert len(world.leave(packet, one).events) == 1
    answer = world.leave(back(packet), other)
    assert answer.passed and answer.events == []
    assert world.leave(packet, one).events == []
    (flow,) = world.flows()
    size = len(bytes(packet))
    assert flow["packets"] == (2, 1)
    assert flow["bytes"] == (2 * size, len(bytes(back(packet))))
    for wrong in (4001, 0):
        assert world.leave(make(*ends(other, one, family), 80, wrong), other).dropped(
            "POLICY_EGRESS"
        )
    assert world.leave(make(*ends(other, one, family), 81, 4000), other).dropped("POLICY_EGRESS")


@FAMILIES
def test_replies_from_outside(world: World, pair: Pair, family: int) -> None:
    one, _ = pair
    for make in (tcp, udp):
        packet = make(*ends(one, OUTSIDE[family], family), 4000, 80)
        assert world.arrive(back(packet), one).dropped("POLICY_INGRESS")
        assert world.leave(packet, one).passed
        assert world.arrive(back(packet), one).passed


@FAMILIES
def test_echo(world: World, pair: Pair, family: int) -> None:
    one, other = pair
    there, here = ends(one, other, family), ends(other, one, family)
    assert world.leave(echo(*here, 7, reply=True), other).dropped("POLICY_EGRESS")
    assert world.leave(echo(*there, 7), one).passed
    assert world.leave(echo(*here, 7, reply=True), other).passed
    assert world.leave(echo(*here, 8, reply=True), other).dropped("POLICY_EGRESS")
    # the other end's own question, though with the same identifier, is no answer
    assert world.leave(echo(*here, 7), other).dropped("POLICY_EGRESS")
    assert state(world) == "ESTABLISHED"


@FAMILIES
def test_revoked_both_ways_and_allowed_again(world: World, pair: Pair, family: int) -> None:
    one, other = pair
    packet = tcp(*ends(one, other, family), 4000, 80)
    data, answer = tcp(*ends(one, other, family), 4000, 80, "A"), back(packet, "A")
    assert world.leave(packet, one).passed and world.leave(back(packet), other).passed
    assert world.leave(data, one).passed
    world.withdraw(world.rule(other, INGRESS, peer=300))
    for _ in range(2):  # the second time the revision is current again
        for sent, sender in ((data, one), (answer, other)):
            seen = world.leave(sent, sender)
            assert seen.dropped("POLICY_INGRESS")
            assert list(seen.counted) == [("POLICY_INGRESS", INGRESS, 301)]
    world.rule(other, INGRESS, peer=300)
    world.tables.move_revision()
    assert world.leave(answer, other).passed and world.leave(data, one).passed
    world.withdraw(world.rule(one, EGRESS))
    for sent, sender in ((answer, other), (data, one)):
        assert list(world.leave(sent, sender).counted) == [("POLICY_EGRESS", EGRESS, 300)]


def test_a_flow_keeps_its_verdict_while_the_revision_stands(world: World, pair: Pair) -> None:
    one, other = pair
    packet = udp(*ends(one, other, 4), 4000, 53)
    assert world.leave(packet, one).passed
    key = world.rule(one, EGRESS)
    assert world.tables["policy"].delete(key)
    assert world.leave(packet, one).passed
    world.tables.move_revision()
    assert world.leave(packet, one).dropped("POLICY_EGRESS")


@pytest.mark.parametrize("make", [tcp, udp])
def test_a_reply_is_judged_as_what_it_answers(
    world: World, pair: Pair, make: Callable[..., Packet]
) -> None:
    one, other = pair
    protocol = Protocol.TCP if make is tcp else Protocol.UDP
    assert world.leave(make(*ends(one, other, 4), 4000, 80), one).passed
    world.withdraw(world.rule(one, EGRESS))
    key = world.rule(one, EGRESS, peer=301, protocol=protocol, port=80, number=5)
    answer = back(make(*ends(one, other, 4), 4000, 80))
    assert world.leave(answer, other).passed
    (flow,) = world.flows()
    assert flow["rule"] == 1  # of the last row that was asked, the destination's
    world.withdraw(key)
    world.rule(one, EGRESS, peer=301, protocol=protocol, port=4000)
    assert world.leave(answer, other).dropped("POLICY_EGRESS")


@FAMILIES
def test_states_of_tcp(world: World, pair: Pair, family: int) -> None:
    one, other = pair
    there, here = (*ends(one, other, family), 4000, 80), (*ends(other, one, family), 80, 4000)
    for sender, packet, expected in (
        (one, tcp(*there, "S"), "OPENING"),
        (one, tcp(*there, "S"), "OPENING"),  # sent once more
        (other, tcp(*here, "SA"), "OPENING"),
        (one, tcp(*there, "A"), "ESTABLISHED"),
        (other, tcp(*here, "PA"), "ESTABLISHED"),
        (other, tcp(*here, "FA"), "CLOSING"),
        (one, tcp(*there, "A"), "CLOSING"),
        (one, tcp(*there, "FA"), "CLOSED"),
        (other, tcp(*here, "A"), "CLOSED"),
        (one, tcp(*there, "S"), "OPENING"),  # the same ends again
        (other, tcp(*here, "RA"), "CLOSED"),
        (one, tcp(*there, "S"), "OPENING"),
    ):
        assert world.leave(packet, sender).passed
        assert state(world) == expected, packet.summary()
    (flow,) = world.flows()
    assert flow["packets"] == (1, 0)


def test_a_closed_tuple_opened_by_the_other_end(world: World, pair: Pair) -> None:
    """What was decided about one direction says nothing about the other."""
    one, other = pair
    there, here = (*ends(one, other, 4), 4000, 80), (*ends(other, one, 4), 80, 4000)
    for ending in ("RA", "A"):  # closed, or still established
        assert world.leave(tcp(*there, "S"), one).passed
        assert world.leave(tcp(*here, "SA"), other).passed
        assert world.leave(tcp(*there, ending), one).passed
        assert world.leave(tcp(*here, "S"), other).dropped("POLICY_EGRESS")
        assert world.leave(tcp(*there, "A"), one).passed  # the refused SYN did no harm
        assert world.leave(tcp(*here, "A"), other).passed
    world.rule(other, EGRESS)
    world.rule(one, INGRESS)
    assert world.leave(tcp(*here, "S"), other).passed
    (flow,) = world.flows()
    assert (state(world), flow["packets"]) == ("OPENING", (1, 0))


@FAMILIES
def test_simultaneous_open(world: World, pair: Pair, family: int) -> None:
    one, other = pair
    there, here = (*ends(one, other, family), 4000, 80), (*ends(other, one, family), 80, 4000)
    assert world.leave(tcp(*there, "S"), one).passed
    assert world.leave(tcp(*here, "S"), other).passed
    assert world.leave(tcp(*there, "SA"), one).passed
    assert state(world) == "ESTABLISHED"


def test_data_in_the_syn(world: World, pair: Pair) -> None:
    one, other = pair
    assert world.leave(tcp(*ends(one, other, 4), 4000, 80, "S", data=b"GET /"), one).passed
    assert state(world) == "OPENING"


def test_a_new_connection_asks_policy_anew(world: World, pair: Pair) -> None:
    """Though the old one with the same ends still counts as open, and would have been let go on."""
    one, other = pair
    there = (*ends(one, other, 4), 4000, 80)
    for earlier in (["S"], ["S", "A"]):
        for flags in earlier:
            assert world.leave(tcp(*there, flags), one).passed
        assert world.leave(back(tcp(*there)), other).passed
        world.rule(other, INGRESS, peer=300, protocol=Protocol.TCP, verdict=Verdict.HANDOFF)
        world.tables.move_revision()
        assert world.leave(tcp(*there, "A"), one).passed  # it ends as it began
        assert world.leave(tcp(*there, "S"), one).reason == "PROXY_NOT_READY"
        world.withdraw(
            world.rule(other, INGRESS, peer=300, protocol=Protocol.TCP, verdict=Verdict.HANDOFF)
        )


@pytest.mark.parametrize(
    ("packets", "seconds"),
    [("S", 120), ("S<A", 0), ("S<AF", 120), ("S<AR", 120)],
)
def test_timeouts_of_tcp(world: World, pair: Pair, packets: str, seconds: int) -> None:
    one, other = pair
    there, here = (*ends(one, other, 4), 4000, 80), (*ends(other, one, 4), 80, 4000)

    def play() -> None:
        world.clear_flows()
        for step in packets:
            sender = other if step == "<" else one
            flags = {"<": "SA", "F": "FA"}.get(step, step)
            assert world.leave(tcp(*(here if step == "<" else there), flags), sender).passed

    play()
    # an established one lasts for five days, which is more than this machine may have been up
    world.age_flows(seconds - 1 if seconds else 5 * DAYS - 1)
    assert world.leave(tcp(*here, "A"), other).passed
    if not seconds:
        return
    play()
    world.age_flows(seconds + 1)
    assert world.leave(tcp(*here, "A"), other).dropped("POLICY_EGRESS")
    assert world.flows() == []


@pytest.mark.parametrize(("answered", "seconds"), [(False, 30), (True, 120)])
def test_timeouts_of_udp(world: World, pair: Pair, answered: bool, seconds: int) -> None:
    one, other = pair
    packet: Packet = udp(*ends(one, other, 4), 4000, 53)
    for age, passes in ((seconds - 1, True), (seconds + 1, False)):
        world.clear_flows()
        assert world.leave(packet, one).passed
        assert not answered or world.leave(back(packet), other).passed
        world.age_flows(age)
        assert world.leave(back(packet), other).passed is passes


def test_a_picked_up_connection(world: World, pair: Pair) -> None:
    """Its start was not seen, but policy allows it; of a reset nothing is expected any more."""
    one, other = pair
    assert world.leave(tcp(*ends(one, other, 4), 4000, 80, "A"), one).passed
    assert world.leave(tcp(*ends(other, one, 4), 80, 4000, "A"), other).passed
    assert world.leave(tcp(*ends(one, other, 4), 4000, 80, "A"), one).passed
    assert state(world) == "ESTABLISHED"
    world.clear_flows()
    assert world.leave(tcp(*ends(one, other, 4), 4000, 80, "R"), one).passed
    assert state(world) == "CLOSED"


def test_both_ends_on_one_address(world: World, pair: Pair) -> None:
    one, _ = pair
    world.rule(one, INGRESS)
    packet = udp(one.v4, one.v4, 4000, 53)
    assert world.leave(packet, one).passed
    assert world.leave(back(packet), one).passed
    (flow,) = world.flows()
    assert flow["packets"] == (1, 1)
