"""What a test run cannot show: the programs at work on an interface, on packets that really came.

w1-end, in a namespace of its own, is the workload's side of w1, where `from_workload` is attached.
"""

from __future__ import annotations

import socket
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest
from scapy.layers.inet import TCP
from scapy.packet import Packet, Raw

from pyagent.compiler.rows import Verdict
from pyagent.kernel import abi
from pyagent.kernel.netlink import Hook, Netlink
from pyagent.model import Protocol
from tests.prog.harness import ABI, EGRESS, INGRESS, REASONS, STATES, Workload, World
from tests.prog.node import Node
from tests.prog.packets import OUTSIDE, ends, ip, tcp, udp
from tests.prog.test_parse import OPTIONS, extensions

FAMILIES = pytest.mark.parametrize("family", [4, 6])
SOL_PACKET, PACKET_VNET_HDR = 263, 15
MTU = 9000


def run(*command: str) -> None:
    subprocess.run(command, check=True)


@pytest.fixture(scope="module")
def wired(node: Node) -> Iterator[Node]:
    """w1 is up with its program, and w1-end has its workload's addresses and default routes."""
    index = node.interfaces["w1"].index
    with Netlink(node.namespace) as netlink:
        netlink.attach(index, Hook.INGRESS, node.programs.fds["from_workload"], "from_workload")
    with node.inside():
        run("ip", "link", "set", "w1", "mtu", str(MTU), "up")
    with node.behind():
        run("ip", "link", "set", "w1-end", "mtu", str(MTU), "up")
        gateway = ["lladdr", node.interfaces["w1"].mac, "dev", "w1-end", "nud", "permanent"]
        for address, host, via in (
            ("10.1.0.1", "32", "169.254.1.1"),
            ("fd00:1::1", "128", "fe80::1"),
        ):
            run(
                "ip",
                "addr",
                "add",
                f"{address}/{host}",
                "dev",
                "w1-end",
                *(["nodad"] * (host == "128")),
            )
            run("ip", "neigh", "replace", via, *gateway)
            run("ip", "route", "add", "default", "via", via, "dev", "w1-end", "onlink")
    yield node
    with Netlink(node.namespace) as netlink:
        netlink.detach(index)


@pytest.fixture
def one(wired: Node, world: World) -> Workload:
    made = world.workload("w1", 300)
    for protocol in (Protocol.TCP, Protocol.UDP):
        world.rule(made, EGRESS, protocol=protocol, port=80)
    return made


@pytest.fixture
def wire(wired: Node) -> Iterator[socket.socket]:
    """A packet socket on w1-end whose packets are but 14 bytes linear, the rest in pages."""
    with wired.behind():
        made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    with closing(made):
        made.bind(("w1-end", 0))
        made.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
        yield made


def send(wire: socket.socket, packet: Packet | bytes) -> None:
    wire.send(struct.pack("=BBHHHH", 0, 0, 14, 0, 0, 0) + bytes(packet))


def event(world: World, source_port: int) -> abi.Record:
    """The next event about a packet from that port."""
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        for raw in world.node.events.poll(0.5):
            record = ABI.layouts["event"].unpack(raw)
            if record["source_port"] == source_port:
                return record
    raise AssertionError(f"no event about a packet from port {source_port}")


@FAMILIES
@pytest.mark.parametrize("make", [tcp, udp])
def test_headers_that_lie_in_pages(
    world: World, one: Workload, wire: socket.socket, family: int, make: Callable[..., Packet]
) -> None:
    pair = ends(one, OUTSIDE[family], family)
    for port, reason in ((80, "NONE"), (81, "POLICY_EGRESS")):
        send(wire, make(*pair, 4000 + port, port, data=bytes(5000)))
        seen = event(world, 4000 + port)
        assert (seen["reason"], seen["destination_port"]) == (REASONS[reason], port)
        assert seen["length"] > 5000


def test_headers_deep_in_pages(world: World, one: Workload, wire: socket.socket) -> None:
    chain = extensions([OPTIONS, OPTIONS], size=224)
    for port, reason in ((80, "NONE"), (81, "POLICY_EGRESS")):
        packet = Raw(chain) / TCP(sport=4100 + port, dport=port) / bytes(5000)
        send(wire, ip(*ends(one, OUTSIDE[6], 6), packet, nh=OPTIONS))
        assert event(world, 4100 + port)["reason"] == REASONS[reason]


@FAMILIES
def test_truncated_within_the_ip_header(
    world: World, one: Workload, wire: socket.socket, family: int
) -> None:
    """Of these the kernel makes no test run. The link layer carries them all the same."""
    raw = bytes(tcp(*ends(one, OUTSIDE[family], family), 4000, 80))
    lengths = range(15, 14 + (20 if family == 4 else 40))

    def truncated() -> int:
        return world.counted().get(("TRUNCATED", EGRESS, 300), (0, 0))[0]

    before = truncated()
    for length in lengths:
        send(wire, raw[:length])
    deadline = time.monotonic() + 5
    while truncated() - before < len(lengths) and time.monotonic() < deadline:
        world.node.events.poll(0.1)
    assert truncated() - before == len(lengths)


@FAMILIES
def test_a_closed_tenants_client_is_told_at_once(world: World, one: Workload, family: int) -> None:
    other = world.workload("w2", 301, tenant=5)
    world.rule(other, INGRESS, verdict=Verdict.HANDOFF)
    world.proxy("p1", 5, ready=False)
    with world.node.behind():
        client = socket.socket(socket.AF_INET if family == 4 else socket.AF_INET6)
    with closing(client):
        client.settimeout(5)
        before = time.monotonic()
        with pytest.raises(ConnectionRefusedError):
            client.connect((ends(one, other, family)[1], 80))
        assert time.monotonic() - before < 0.5  # the SYN would be sent again after a second
    counted = world.counted()["PROXY_NOT_READY", EGRESS, 300][0]
    assert counted >= 1
    assert all(flow["state"] != STATES["ESTABLISHED"] for flow in world.flows())


@FAMILIES
def test_a_connection_that_has_its_socket(node: Node, world: World, family: int) -> None:
    """In the proxy's namespace it is left alone; another, and one to a mere listener, is not."""
    host = "127.0.0.1" if family == 4 else "::1"
    proxy = node.interfaces["p1"]
    with node.inside():
        kind = socket.AF_INET if family == 4 else socket.AF_INET6
        listener, client = socket.socket(kind), socket.socket(kind)
    with closing(listener), closing(client):
        listener.bind((host, 0))
        listener.listen()
        client.connect(listener.getsockname())
        port, to = client.getsockname()[1], listener.getsockname()[1]
        assert world.send("to_proxy", tcp(host, host, port, to, "A"), proxy).counted == {}
        other = world.send("to_proxy", tcp(host, host, port - 1, to, "S"), proxy)
        assert other.reason == "NO_LISTENER"
