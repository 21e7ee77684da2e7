"""HTTP through a tenant's proxy: neither end notices, and the server sees the client."""

from __future__ import annotations

import hashlib
import os
import re
import socket
import struct
from collections.abc import Iterator

import pytest

from tests.netns.node import Node, policy, wait_for
from tests.netns.tenants import ADDRESSES, NARROW, ProxySpace, Site, build
from tests.netns.traffic import (
    PATIENCE,
    ask,
    connect,
    dropped,
    handoffs,
    http,
    listen,
    receive,
    tcp_dropped,
    url_host,
)

BULK = os.urandom(1 << 20) * 24


@pytest.fixture(scope="module")
def site(shared_node: Node) -> Iterator[Site]:
    yield build(shared_node)


@pytest.fixture(scope="module", params=(0, 1), ids=("ipv4", "ipv6"))
def of(request: pytest.FixtureRequest) -> int:
    """Which of a host's two addresses."""
    return int(request.param)


@pytest.mark.parametrize(
    ("client", "server", "port", "handed_off"),
    [
        ("client", "web", 80, True),
        ("client", "web", 8080, False),
        ("guest", "web", 80, True),
        ("client", "teller", 80, True),
        ("client", "shed", 80, False),
        ("guest", "shed", 80, False),
        ("world", "web", 80, True),
        ("client", "world", 80, True),
        ("clerk", "world", 8080, True),
        ("client", "world", 8080, False),
        ("guest", "world", 80, False),
    ],
)
def test_what_is_handed_off(
    site: Site, client: str, server: str, port: int, handed_off: bool, of: int
) -> None:
    before = handoffs(site.node)
    answer = http(site.hosts[client], ADDRESSES[server][of], port)
    assert answer.status == 200
    assert answer.said["client"] == ADDRESSES[client][of]
    assert answer.said["protocol"] == "HTTP/1.1"
    assert handoffs(site.node) == before + handed_off
    assert answer.headers.keys() == {"content-type", "content-length", "date", "server"}
    assert answer.headers["server"] == "hypercorn-h11"


@pytest.mark.parametrize(
    ("client", "server", "tenant"),
    [("client", "teller", "bank"), ("guest", "web", "shop"), ("client", "world", "shop")],
)
def test_whose_proxy_has_it(site: Site, client: str, server: str, tenant: str, of: int) -> None:
    """The destination's tenant's; the source's, when the destination is outside."""
    path = f"/{os.urandom(8).hex()}?a=b"
    answer = http(site.hosts[client], ADDRESSES[server][of], path=path)
    assert answer.status == 200

    def entries(of_tenant: str) -> list[dict[str, object]]:
        return [entry for entry in site.access_log(of_tenant) if entry["path"] == path]

    [entry] = wait_for(lambda: entries(tenant), "the access log")
    ours, theirs = (url_host(ADDRESSES[name][of]) for name in (client, server))
    assert entry["client"] == f"{ours}:{answer.local_port}"
    assert entry["destination"] == f"{theirs}:80"
    assert entry["upstream_local"] == f"{ours}:{answer.said['client_port']}"
    assert (entry["method"], entry["code"], entry["protocol"]) == ("GET", 200, "HTTP/1.1")
    assert entry["authority"] == f"{theirs}"
    assert not entries({"shop": "bank", "bank": "shop"}[tenant])


def test_one_connection_carries_many_requests(site: Site, of: int) -> None:
    before = handoffs(site.node)
    with connect(site.hosts["client"], ADDRESSES["web"][of], 80) as connection:
        said = [ask(connection, f"/{number}").said for number in range(50)]
    assert [answer["path"] for answer in said] == [f"/{number}" for number in range(50)]
    assert len({answer["client_port"] for answer in said}) == 1
    assert handoffs(site.node) == before + 1


def test_upstream_connections_are_pooled_for_each_client_and_never_shared(
    site: Site, of: int
) -> None:
    clients = ("client", "limited", "guest", "world")
    web = ADDRESSES["web"][of]
    kept = {name: connect(site.hosts[name], web, 80) for name in clients}
    ports: dict[str, set[int]] = {name: set() for name in clients}
    for _ in range(5):
        for name, connection in kept.items():
            said = ask(connection).said
            assert said["client"] == ADDRESSES[name][of]
            ports[name].add(said["client_port"])
    assert [len(used) for used in ports.values()] == [1, 1, 1, 1]
    for name, connection in kept.items():
        connection.close()
        again = http(site.hosts[name], web).said
        assert (again["client"], {again["client_port"]}) == (ADDRESSES[name][of], ports[name])


def test_clients_with_the_same_source_port(site: Site, of: int) -> None:
    """To one server, and from one client to two."""
    with (
        connect(site.hosts["client"], ADDRESSES["web"][of], 80, source_port=45_000) as one,
        connect(site.hosts["guest"], ADDRESSES["web"][of], 80, source_port=45_000) as two,
        connect(site.hosts["client"], ADDRESSES["teller"][of], 80, source_port=45_000) as three,
        connect(site.hosts["client"], ADDRESSES["web"][of], 8080, source_port=45_000) as four,
    ):
        for _ in range(3):
            for connection, name in ((one, "client"), (two, "guest"), (three, "client")):
                assert ask(connection).said["client"] == ADDRESSES[name][of]
            assert ask(four).said["client_port"] == 45_000


def retransmitted(connection: socket.socket) -> int:
    """Segments that had to be sent again, the SYN included (tcpi_total_retrans, tcp(7))."""
    information = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
    return int(struct.unpack_from("I", information, 100)[0])


def test_a_source_port_serves_again_at_once(site: Site, of: int) -> None:
    """Whoever closed first: a connection that is over does not stand in the way of the next."""
    client, web = site.hosts["client"], ADDRESSES["web"][of]
    for _ in range(5):
        with connect(client, web, 80, source_port=45_001) as connection:
            assert retransmitted(connection) == 0
            connection.sendall(b"GET / HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n")
            assert receive(connection, 1 << 20).startswith(b"HTTP/1.1 200")
        with connect(client, web, 80, source_port=45_002) as connection:
            assert retransmitted(connection) == 0
            assert ask(connection).status == 200
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def test_many_clients_at_once(site: Site, of: int) -> None:
    names = ("client", "guest", "world", "limited")
    web = ADDRESSES["web"][of]
    connections = [(name, connect(site.hosts[name], web, 80)) for name in names * 50]
    for name, connection in connections:
        request = f"GET /{name} HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n"
        connection.sendall(request.encode())
    for name, connection in connections:
        with connection:
            text = receive(connection, 1 << 20).decode()
        assert text.startswith("HTTP/1.1 200")
        assert f'"client": "{ADDRESSES[name][of]}"' in text
        assert f'"path": "/{name}"' in text


def test_http2_with_prior_knowledge(site: Site, of: int) -> None:
    url = f"http://{url_host(ADDRESSES['web'][of])}/two"
    code, body = site.hosts["client"].curl(url, "--http2-prior-knowledge")
    assert code == 200
    assert '"protocol": "HTTP/2"' in body
    assert f'"client": "{ADDRESSES["client"][of]}"' in body
    done = site.hosts["client"].run("nghttp", "--stat", "-n", url, url.replace("two", "three"))
    assert len(re.findall(r" 200 +\d+ /", done.stdout)) == 2, done.stdout + done.stderr


def test_concurrent_http2_streams(site: Site, of: int) -> None:
    before = handoffs(site.node)
    url = f"http://{url_host(ADDRESSES['web'][of])}/"
    done = site.hosts["client"].run("h2load", "-n", "1500", "-c", "5", "-m", "30", url)
    assert "1500 succeeded, 0 failed, 0 errored, 0 timeout" in done.stdout, done.stdout
    assert handoffs(site.node) == before + 5


@pytest.mark.parametrize("server", ("web", "world"))
def test_large_bodies_both_ways(site: Site, server: str, of: int) -> None:
    destination = ADDRESSES[server][of]
    said = http(site.hosts["client"], destination, method="POST", body=BULK).said
    assert said["sha256"] == hashlib.sha256(BULK).hexdigest()
    size = 30_000_000
    body = http(site.hosts["client"], destination, path=f"/download?bytes={size}").body
    assert body == hashlib.shake_128(str(size).encode()).digest(size)


def test_the_proxy_learns_the_way_s_mtu_from_a_router(site: Site, of: int) -> None:
    """The router sends its word to the client, in whose name the proxy spoke."""
    before = handoffs(site.node)
    said = http(site.hosts["client"], ADDRESSES["far"][of], method="POST", body=BULK).said
    assert said["sha256"] == hashlib.sha256(BULK).hexdigest()
    assert handoffs(site.node) == before + 1
    learnt = ProxySpace(site.node, "shop").run("ip", "route", "get", ADDRESSES["far"][of]).stdout
    assert f"mtu {NARROW}" in learnt


def test_an_upgraded_connection_carries_bytes_both_ways(site: Site, of: int) -> None:
    trap = ADDRESSES["trap"][of]
    with (
        listen(site.hosts["trap"], trap, 80) as listener,
        connect(site.hosts["client"], trap, 80) as near,
    ):
        near.sendall(
            b"GET /chat HTTP/1.1\r\nHost: trap\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )
        other, (seen, *_) = listener.accept()
        with other:
            other.settimeout(PATIENCE)
            assert seen == ADDRESSES["client"][of]
            assert head_of(other).startswith(b"GET /chat HTTP/1.1\r\n")
            other.sendall(
                b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n"
                b"Upgrade: websocket\r\n\r\n"
            )
            assert head_of(near).startswith(b"HTTP/1.1 101")
            for data in (b"\x81\x05hello", b"\x00\xff" * 50_000):
                near.sendall(data)
                assert receive(other, len(data)) == data
                other.sendall(data[::-1])
                assert receive(near, len(data)) == data[::-1]


def head_of(connection: socket.socket) -> bytes:
    """A message's head, up to and with the empty line."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        byte = connection.recv(1)
        assert byte, head
        head += byte
    return head


@pytest.mark.parametrize("data", (b"EHLO me\r\n\r\n", b"\x16\x03\x01\x00\x05hello", b"\x00" * 64))
def test_what_is_not_http_is_refused_and_never_reaches_the_server(
    site: Site, data: bytes, of: int
) -> None:
    trap = ADDRESSES["trap"][of]
    with (
        listen(site.hosts["trap"], trap, 80) as listener,
        connect(site.hosts["client"], trap, 80) as connection,
    ):
        connection.sendall(data)
        assert receive(connection, 13) == b"HTTP/1.1 400 "
        listener.setblocking(False)
        with pytest.raises(BlockingIOError):
            listener.accept()


def test_a_server_that_does_not_listen(site: Site, of: int) -> None:
    assert http(site.hosts["client"], ADDRESSES["trap"][of]).status == 503


def test_who_may_not_connect_does_not_meet_the_proxy(site: Site, of: int) -> None:
    before = handoffs(site.node)
    limited = site.hosts["limited"]
    assert http(limited, ADDRESSES["web"][of]).status == 200
    tcp_dropped(site.node, "policy_egress", limited, ADDRESSES["teller"][of], 80)
    assert handoffs(site.node) == before + 1


def test_revoking_a_rule_cuts_a_handed_off_connection_too(site: Site, of: int) -> None:
    """Also one whose way from the proxy to the server is still open."""
    web = ADDRESSES["web"][of]
    closed = policy(
        "shop", "closed", podSelector={"matchLabels": {"app": "web"}}, policyTypes=["Ingress"]
    )
    with connect(site.hosts["client"], web, 80) as connection:
        assert ask(connection).status == 200
        site.node.apply("closed.yaml", closed)
        with dropped(site.node, "policy_ingress"):
            connection.sendall(b"GET /denied HTTP/1.1\r\nHost: web\r\n\r\n")
        tcp_dropped(site.node, "policy_ingress", site.hosts["client"], web, 80)
        site.node.apply("closed.yaml")
        assert b'"path": "/denied"' in receive_answer(connection)
        assert ask(connection).status == 200


def receive_answer(connection: socket.socket) -> bytes:
    """Head and body of an answer with a length."""
    head = head_of(connection)
    [length] = re.findall(rb"content-length: (\d+)", head, re.I)
    return head + receive(connection, int(length))


def test_a_client_that_gives_up_takes_its_request_back(site: Site, of: int) -> None:
    trap = ADDRESSES["trap"][of]
    with listen(site.hosts["trap"], trap, 80) as listener:
        with connect(site.hosts["client"], trap, 80) as near:
            near.sendall(b"GET /slow HTTP/1.1\r\nHost: trap\r\n\r\n")
            other, _ = listener.accept()
            other.settimeout(PATIENCE)
            assert head_of(other).startswith(b"GET /slow")
        with other:
            assert other.recv(1) == b""
