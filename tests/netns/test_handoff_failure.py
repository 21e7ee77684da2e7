"""A proxy that does not serve: what each failure mode makes of it, and that nobody else notices."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from l7proxy.status import read_status
from pyagent.kernel import abi
from tests.netns.node import Node, wait_for
from tests.netns.tenants import ADDRESSES, Site, build
from tests.netns.traffic import PATIENCE, connect, dropped, http, listen, open_socket

NOTICED = 2.0  # seconds within which a frozen proxy counts as not ready


@pytest.fixture(scope="module")
def site(shared_node: Node) -> Iterator[Site]:
    yield build(shared_node)


@pytest.fixture(scope="module", params=(0, 1), ids=("ipv4", "ipv6"))
def of(request: pytest.FixtureRequest) -> int:
    """Which of a host's two addresses."""
    return int(request.param)


def pid_of(site: Site, tenant: str) -> int:
    status = read_status(str(site.proxy_directory(tenant)))
    assert status is not None
    assert status.pid is not None
    return status.pid


@contextmanager
def frozen(site: Site, tenant: str) -> Iterator[None]:
    """The tenant's Envoy stands still, and the kernel knows; afterwards it serves again."""
    pid = pid_of(site, tenant)
    os.kill(pid, signal.SIGSTOP)
    try:
        wait_for(lambda: not site.is_ready(tenant), "not ready", NOTICED)
        yield
    finally:
        os.kill(pid, signal.SIGCONT)
    wait_for(lambda: site.is_ready(tenant), "ready again", PATIENCE)


def failed_open(node: Node) -> int:
    [number] = [stat.number for stat in abi.load().lists["STATS"] if stat.name == "FAILED_OPEN"]
    with node.tables() as tables:
        return int((tables["stats"].get({"index": number}) or {})["value"])  # type: ignore[arg-type]


@pytest.mark.parametrize("client", ("client", "guest", "world"))
def test_closed_refuses_and_nothing_gets_past(site: Site, client: str, of: int) -> None:
    """A workload is told by a reset at once; a host outside hears nothing."""
    trap, host = ADDRESSES["trap"][of], site.hosts[client]
    with listen(site.hosts["trap"], trap, 80) as listener:
        with frozen(site, "shop"):
            with (
                open_socket(host, trap, socket.SOCK_STREAM) as connection,
                dropped(site.node, "proxy_not_ready"),
            ):
                if client == "world":
                    connection.setblocking(False)
                    connection.connect_ex((trap, 80))
                else:
                    with pytest.raises(ConnectionRefusedError):
                        connection.connect((trap, 80))
            assert http(host, ADDRESSES["web"][of], 8080).status == 200
            assert http(site.hosts["client"], ADDRESSES["teller"][of]).status == 200
        listener.setblocking(False)
        with pytest.raises(BlockingIOError):
            listener.accept()
    answer = http(host, ADDRESSES["web"][of])
    assert (answer.status, answer.said["client"]) == (200, ADDRESSES[client][of])


def test_open_passes_at_layer_4_and_is_counted(site: Site, of: int) -> None:
    teller, before = ADDRESSES["teller"][of], failed_open(site.node)
    with frozen(site, "bank"):
        answer = http(site.hosts["client"], teller)
        assert answer.status == 200
        assert answer.said["client_port"] == answer.local_port
        assert failed_open(site.node) == before + 1
        # what began without the proxy goes on without it
        kept = connect(site.hosts["client"], teller, 80)
    with kept:
        kept.sendall(b"GET / HTTP/1.1\r\nHost: teller\r\n\r\n")
        assert f'"client_port": {kept.getsockname()[1]}'.encode() in kept.recv(65536)
    assert http(site.hosts["client"], teller).status == 200
    assert failed_open(site.node) == before + 2


def test_a_request_that_met_a_frozen_proxy_is_served_when_it_moves_again(
    site: Site, of: int
) -> None:
    with connect(site.hosts["client"], ADDRESSES["web"][of], 80) as connection:
        with frozen(site, "shop"):
            connection.sendall(b"GET /late HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n")
        answer = b""
        while part := connection.recv(65536):
            answer += part
    assert b'"path": "/late"' in answer


def test_a_killed_proxy_takes_its_own_connections_along_and_no_others(site: Site, of: int) -> None:
    client, old = site.hosts["client"], pid_of(site, "shop")
    with (
        connect(client, ADDRESSES["web"][of], 80) as lost,
        connect(client, ADDRESSES["teller"][of], 80) as kept,
        connect(client, ADDRESSES["web"][of], 5000) as direct,
    ):
        assert direct.recv(100)
        for connection in (lost, kept):
            connection.sendall(b"GET /1 HTTP/1.1\r\nHost: any\r\n\r\n")
            assert connection.recv(65536)
        os.kill(old, signal.SIGKILL)
        assert lost.recv(1) == b"" if closes(lost) else True
        kept.sendall(b"GET /2 HTTP/1.1\r\nHost: any\r\n\r\n")
        assert b'"path": "/2"' in kept.recv(65536)
        direct.sendall(b"still here")
        assert direct.recv(100) == b"still here"
        wait_for(lambda: pid_of(site, "shop") != old and site.is_ready("shop"), "another", PATIENCE)
    assert http(client, ADDRESSES["web"][of]).status == 200


def closes(connection: socket.socket) -> bool:
    """Whether the connection ends in an orderly way; a reset ends it too."""
    try:
        return connection.recv(1, socket.MSG_PEEK) == b""
    except ConnectionResetError:
        return False
