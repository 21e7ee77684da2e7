"""Connections and datagrams of every kind, between workloads and with hosts outside."""

from __future__ import annotations

import errno
import hashlib
import os
import socket
import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.netns import wires
from tests.netns.node import Netns, Node, ip, policy, workload
from tests.netns.traffic import (
    PATIENCE,
    connect,
    dropped,
    echo,
    greet,
    listen,
    open_socket,
    ping,
    receive,
    tcp,
    udp,
)

ADDRESSES = {
    "one": ("10.201.0.1", "fd00:201::1"),
    "two": ("10.201.0.2", "fd00:201::2"),
    "shut": ("10.201.0.3", "fd00:201::3"),
    "world": ("192.0.2.18", "2001:db8:1::2"),
    "far": ("198.51.100.2", "2001:db8:f::2"),
}
NARROW = 1300  # bytes, MTU of the way to "far"
BULK = os.urandom(1 << 20) * 48


@dataclass(frozen=True)
class Site:
    """The node and its hosts by name: three workloads, "world" next to the node, "far" behind a
    router whose interface to it has a small MTU."""

    node: Node
    hosts: dict[str, Netns]


@pytest.fixture(scope="module", params=(4, 6))
def version(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture(scope="module")
def site(shared_node: Node) -> Iterator[Site]:
    node = shared_node
    hosts = {name: node.host(name) for name in (*ADDRESSES, "router")}
    wires.routed(node, "up0", hosts["world"], 1)
    wires.routed(node, "up1", hosts["router"], 2)
    wires.behind(hosts["router"], "narrow", hosts["far"], "198.51.100", "2001:db8:f:")
    ip("-n", hosts["router"].name, "link", "set", "narrow", "mtu", str(NARROW))
    wires.route(node, "198.51.100.0/24", "192.0.2.34")
    wires.route(node, "2001:db8:f::/64", "2001:db8:2::2")
    node.write(
        "all.yaml",
        *(workload(hosts[name], "shop", name, ADDRESSES[name]) for name in ("one", "two", "shut")),
        policy("shop", "shut", podSelector={"matchLabels": {"app": "shut"}}),
    )
    node.start_agent()
    for name in ("one", "two", "shut", "world"):
        hosts[name].serve(tcp=[5000], udp=[5000])
    yield Site(node, hosts)


@pytest.fixture(params=(("one", "two"), ("one", "world"), ("world", "one")), ids="-".join)
def ends(request: pytest.FixtureRequest, site: Site, version: int) -> tuple[Netns, Netns, str, str]:
    """A client and a server, hosts and addresses."""
    client, server = request.param
    of = version // 2 - 2
    return site.hosts[client], site.hosts[server], ADDRESSES[client][of], ADDRESSES[server][of]


Ends = tuple[Netns, Netns, str, str]


def address(name: str, version: int) -> str:
    return ADDRESSES[name][version // 2 - 2]


def send_all(connection: socket.socket, data: bytes) -> threading.Thread:
    """Sends in the background, then says that no more will come."""

    def work() -> None:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def digest_of(connection: socket.socket) -> str:
    """SHA-256 of everything that comes until the other end has no more."""
    digest = hashlib.sha256()
    while part := connection.recv(1 << 20):
        digest.update(part)
    return digest.hexdigest()


def test_the_server_may_speak_first_and_sees_the_client(ends: Ends) -> None:
    client, _, source, destination = ends
    assert tcp(client, destination, 5000) == source
    assert udp(client, destination, 5000) == source
    assert ping(client, destination) == destination


def test_bulk_both_ways_at_once(ends: Ends) -> None:
    client, server, _, destination = ends
    with (
        listen(server, destination, 7000) as listener,
        connect(client, destination, 7000) as near,
        listener.accept()[0] as other,
    ):
        other.settimeout(PATIENCE)
        up, down = send_all(near, BULK), send_all(other, BULK[::-1])
        found: list[str] = []
        reader = threading.Thread(target=lambda: found.append(digest_of(other)), daemon=True)
        reader.start()
        assert digest_of(near) == hashlib.sha256(BULK[::-1]).hexdigest()
        for thread in (reader, up, down):
            thread.join(PATIENCE)
        assert found == [hashlib.sha256(BULK).hexdigest()]


def test_half_closed_connections_go_on_the_other_way(ends: Ends) -> None:
    client, server, _, destination = ends
    with (
        listen(server, destination, 7000) as listener,
        connect(client, destination, 7000) as near,
        listener.accept()[0] as other,
    ):
        near.sendall(b"all I have")
        near.shutdown(socket.SHUT_WR)
        assert receive(other, 100) == b"all I have"
        for _ in range(3):
            other.sendall(b"still here")
            assert receive(near, 10) == b"still here"
        other.shutdown(socket.SHUT_WR)
        assert near.recv(1) == b""


def test_a_reset_reaches_the_other_end_at_once(ends: Ends) -> None:
    client, server, _, destination = ends
    for who in ("client", "server"):
        with listen(server, destination, 7000) as listener:
            near = connect(client, destination, 7000)
            other, _ = listener.accept()
            other.settimeout(PATIENCE)
            resets, hears = (near, other) if who == "client" else (other, near)
            with hears:
                resets.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                resets.close()
                with pytest.raises(ConnectionResetError):
                    hears.recv(1)


def test_the_same_ports_serve_again_at_once(ends: Ends) -> None:
    """A new connection between the ends of one that is over is a new flow."""
    client, server, _, destination = ends
    with listen(server, destination, 7000) as listener:
        for _ in range(5):
            near = connect(client, destination, 7000, source_port=6999)
            other, _ = listener.accept()
            with other:
                near.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                near.sendall(b"x")
                assert other.recv(1) == b"x"
                near.close()


def test_many_connections_at_once(ends: Ends) -> None:
    client, _, source, destination = ends
    connections = [connect(client, destination, 5000) for _ in range(300)]
    for number, connection in enumerate(connections):
        connection.sendall(b"%06d" % number)
    for number, connection in enumerate(connections):
        assert greet(connection) == source
        assert receive(connection, 6) == b"%06d" % number
        connection.close()


def test_a_closed_port_is_told_at_once(ends: Ends) -> None:
    """By a reset, and by an ICMP error that belongs to the datagram's flow."""
    client, _, _, destination = ends
    with pytest.raises(ConnectionRefusedError):
        connect(client, destination, 9)
    with open_socket(client, destination, socket.SOCK_DGRAM) as datagrams:
        datagrams.connect((destination, 9))
        datagrams.send(b"anybody?")
        with pytest.raises(ConnectionRefusedError):
            datagrams.recv(1)


@pytest.mark.parametrize("size", (1473, 9000, 40_000))
def test_a_datagram_in_fragments(ends: Ends, size: int) -> None:
    client, _, source, destination = ends
    assert udp(client, destination, 5000, size=size) == source
    assert ping(client, destination, size=size) == destination


def test_fragments_of_a_denied_datagram_are_all_denied(site: Site, version: int) -> None:
    shut = address("shut", version)
    with (
        open_socket(site.hosts["one"], shut, socket.SOCK_DGRAM) as datagrams,
        open_socket(site.hosts["one"], shut, socket.SOCK_DGRAM) as after,
    ):
        before = site.node.drops()
        datagrams.sendto(bytes(9000), (shut, 5000))
        with dropped(site.node, "policy_ingress"):
            after.sendto(b"the last one", (shut, 5000))
        now = site.node.drops()
    gone = {reason: now[reason] - before.get(reason, 0) for reason in now}
    assert {reason: number for reason, number in gone.items() if number} == {"policy_ingress": 8}


def test_the_way_s_mtu_is_learnt_from_a_router(site: Site, version: int) -> None:
    one, far = site.hosts["one"], address("far", version)
    with (
        listen(site.hosts["far"], far, 7000) as listener,
        connect(one, far, 7000) as near,
        listener.accept()[0] as other,
    ):
        other.settimeout(PATIENCE)
        assert near.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG) > NARROW
        send_all(near, BULK)
        assert digest_of(other) == hashlib.sha256(BULK).hexdigest()
        assert near.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG) < NARROW
    assert f"mtu {NARROW}" in ip("-n", one.name, "route", "get", far)


def test_a_hop_limit_that_ends_is_told(site: Site, version: int) -> None:
    """First the node says so, then a router that is neither end of the flow."""
    far = address("far", version)
    level, ttl, errors = {
        4: (socket.IPPROTO_IP, socket.IP_TTL, 11),  # IP_RECVERR
        6: (socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, 25),  # IPV6_RECVERR
    }[version]
    for hops in (1, 2):
        with open_socket(site.hosts["one"], far, socket.SOCK_DGRAM) as datagrams:
            datagrams.setsockopt(level, ttl, hops)
            datagrams.setsockopt(level, errors, 1)
            datagrams.connect((far, 33_434))
            datagrams.send(b"how far?")
            with pytest.raises(OSError) as told:
                datagrams.recv(1)
            assert told.value.errno == errno.EHOSTUNREACH


def test_an_idle_connection_survives_all_of_the_above(site: Site, version: int) -> None:
    with connect(site.hosts["one"], address("two", version), 5000) as connection:
        greet(connection)
        for _ in range(20):
            tcp(site.hosts["two"], address("one", version), 5000)
        assert echo(connection)
