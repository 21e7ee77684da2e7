"""Who may send from where: sources of workloads, of the node and of the world, and destinations."""

from __future__ import annotations

import pytest
from scapy.layers.l2 import ARP, Ether

from tests.prog.harness import EGRESS, INGRESS, REDIRECT, World
from tests.prog.packets import MAC, OUTSIDE, echo, ends, tcp, udp

FAMILIES = pytest.mark.parametrize("family", [4, 6])


@FAMILIES
def test_a_workload_sends_from_its_own_addresses(world: World, family: int) -> None:
    one, other = world.workload("w1", 300), world.workload("w2", 301)
    world.open(one, other)
    node = {4: "10.9.9.9", 6: "fd00:9::9"}[family]
    world.node_address(node)
    strange = [{4: "0.0.0.0", 6: "::"}[family], {4: "127.0.0.1", 6: "::1"}[family]]
    strange += [{4: "224.0.0.1", 6: "ff02::1"}[family], {4: "169.254.1.1", 6: "fe80::1"}[family]]
    for source in (ends(other, one, family)[0], OUTSIDE[family], node, *strange):
        for packet in (
            tcp(source, ends(one, other, family)[1], 4000, 80),
            udp(source, ends(one, other, family)[1], 4000, 80),
            echo(source, ends(one, other, family)[1], 7),
        ):
            assert world.leave(packet, one).dropped("SOURCE")
    assert world.leave(tcp(*ends(one, other, family), 4000, 80), one).passed


def test_an_interface_without_workload(world: World) -> None:
    one = world.workload("w1", 300)
    world.open(one)
    stray = world.node.interfaces["w4"]
    arp = Ether(src=MAC) / ARP(psrc=one.v4)
    for packet in (tcp(one.v4, OUTSIDE[4], 4000, 80), arp):
        for hook in ("from_workload", "to_workload", "from_proxy"):
            seen = world.send(hook, packet, stray)
            assert seen.dropped("NO_WORKLOAD")
            assert next(iter(seen.counted))[2] == 0


@FAMILIES
def test_only_the_node_sends_from_its_addresses(world: World, family: int) -> None:
    one = world.workload("w1", 300)
    world.open(one)
    node = {4: "10.9.9.9", 6: "fd00:9::9"}[family]
    world.node_address(node)
    packet = tcp(*ends(node, one, family), 4000, 80)
    assert world.arrive(packet, one, ingress=world.out.index).dropped("SOURCE")
    assert world.arrive(packet, one, ingress=0).passed


@FAMILIES
def test_a_workloads_address_comes_from_its_interface(world: World, family: int) -> None:
    one, other = world.workload("w1", 300), world.workload("w2", 301)
    world.rule(one, INGRESS, peer=301)
    packet = tcp(*ends(other, one, family), 4000, 80)
    assert world.arrive(packet, one, ingress=world.out.index).dropped("SOURCE")
    assert world.arrive(packet, one, ingress=one.interface.index).dropped("SOURCE")
    world.rule(other, EGRESS)
    assert world.arrive(packet, one, ingress=other.interface.index).passed


@FAMILIES
def test_what_is_for_another_is_not_delivered(world: World, family: int) -> None:
    """A bridge floods frames, or has been told a wrong port for a MAC."""
    one, other = world.workload("w1", 300), world.workload("w2", 301)
    world.open(one, other)
    for destination in (ends(one, other, family)[1], {4: "10.1.0.99", 6: "fd00:1::99"}[family]):
        packet = tcp(OUTSIDE[family], destination, 4000, 80)
        assert world.arrive(packet, one).dropped("DESTINATION")
    group = tcp(OUTSIDE[family], ends(one, other, family)[1], 4000, 80, mac="33:33:00:00:00:01")
    assert world.arrive(group, one).dropped("DESTINATION")
    assert world.flows() == []


@FAMILIES
def test_a_workload_reaches_itself(world: World, family: int) -> None:
    one = world.workload("w1", 300)
    world.open(one)
    packet = udp(*ends(one, one, family), 4000, 80)
    seen = world.leave(packet, one)
    assert seen.passed and seen.action != REDIRECT
    assert world.arrive(packet, one, ingress=one.interface.index).passed
