"""Interfaces that a user, not Sluice, has wired: routed veth pairs, a bridge, hosts outside.

A host outside is a namespace behind a veth of the node that is no workload's.
"""

from __future__ import annotations

from ipaddress import ip_interface

from tests.netns.node import Netns, ip


def pair(node: Netns, interface: str, host: Netns, inside: str = "eth0") -> None:
    """A veth pair between node and host, both ends up; addresses are the caller's business."""
    ip(
        *("-n", node.name, "link", "add", interface, "type", "veth"),
        *("peer", "name", inside, "netns", host.name),
    )
    ip("-n", node.name, "link", "set", interface, "up")
    ip("-n", host.name, "link", "set", inside, "up")
    ip("-n", host.name, "link", "set", "lo", "up")


def give(host: Netns, interface: str, *addresses: str) -> None:
    """Addresses with their prefix lengths, usable at once."""
    for address in addresses:
        nodad = ["nodad"] if ip_interface(address).version == 6 else []
        ip("-n", host.name, "addr", "add", address, "dev", interface, *nodad)


def route(host: Netns, destination: str, gateway: str) -> None:
    """A route through a gateway."""
    ip("-n", host.name, "route", "add", destination, "via", gateway)


def routed(node: Netns, interface: str, host: Netns, number: int, family: str = "192.0.2") -> None:
    """A host on a subnet of its own, its default routes through the node.

    The node has 192.0.2.(16 * number + 1)/28 and 2001:db8:NUMBER::1/64, the host the address
    after it in both; neighbours are found by ARP and NDP.
    """
    pair(node, interface, host)
    first = 16 * number
    give(node, interface, f"{family}.{first + 1}/28", f"2001:db8:{number}::1/64")
    give(host, "eth0", f"{family}.{first + 2}/28", f"2001:db8:{number}::2/64")
    route(host, "default", f"{family}.{first + 1}")
    route(host, "default", f"2001:db8:{number}::1")


def bridge(node: Netns, name: str) -> None:
    """A bridge on the node, up, without ports and addresses."""
    ip(
        "-n",
        node.name,
        "link",
        "add",
        name,
        "type",
        "bridge",
        "stp_state",
        "0",
        "forward_delay",
        "0",
    )
    ip("-n", node.name, "link", "set", name, "up")


def plug(node: Netns, bridge: str, interface: str, host: Netns) -> None:
    """A host behind a port of the bridge."""
    pair(node, interface, host)
    ip("-n", node.name, "link", "set", interface, "master", bridge)
