"""A proxy that does not serve: what each failure mode makes of it, and that nobody else notices."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException

import pytest

from l7proxy.status import read_status
from tests.netns.node import Node, wait_for
from tests.netns.tenants import ADDRESSES, Site, build
from tests.netns.traffic import (
    PATIENCE,
    ask,
    connect,
    dropped,
    echo,
    greet,
    http,
    listen,
    open_socket,
    receive,
    stat,
)


@pytest.fixture(scope="module")
def site(shared_node: Node) -> Iterator[Site]:
    yield build(shared_node)


def pid_of(site: Site, tenant: str) -> int | None:
    status = read_status(str(site.proxy_directory(tenant)))
    return status.pid if status else None


@contextmanager
def frozen(site: Site, tenant: str) -> Iterator[None]:
    """The tenant's Envoy stands still, and the kernel knows; afterwards it serves again."""
    pid = pid_of(site, tenant)
    assert pid
    os.kill(pid, signal.SIGSTOP)
    try:
        wait_for(lambda: not site.is_ready(tenant), "not ready", PATIENCE)
        yield
    finally:
        os.kill(pid, signal.SIGCONT)
    wait_for(lambda: site.is_ready(tenant), "ready again", PATIENCE)


def refused(site: Site, client: str, of: int) -> None:
    """A workload is told by a reset at once; a host outside hears nothing."""
    trap = ADDRESSES["trap"][of]
    with (
        open_socket(site.hosts[client], trap, socket.SOCK_STREAM) as connection,
        dropped(site.node, "proxy_not_ready"),
    ):
        if client == "world":
            connection.setblocking(False)
            connection.connect_ex((trap, 80))
        else:
            with pytest.raises(ConnectionRefusedError):
                connection.connect((trap, 80))


def test_closed_refuses_and_nothing_gets_past(site: Site) -> None:
    clients = [(name, of) for name in ("client", "guest", "world") for of in (0, 1)]
    with (
        listen(site.hosts["trap"], ADDRESSES["trap"][0], 80) as trap4,
        listen(site.hosts["trap"], ADDRESSES["trap"][1], 80) as trap6,
    ):
        with frozen(site, "shop"):
            for client, of in clients:
                refused(site, client, of)
                host = site.hosts[client]
                assert http(host, ADDRESSES["web"][of], 8080).status == 200
                assert http(host, ADDRESSES["teller"][of]).status == 200
        for listener in (trap4, trap6):
            listener.setblocking(False)
            with pytest.raises(BlockingIOError):
                listener.accept()
    for client, of in clients:
        answer = http(site.hosts[client], ADDRESSES["web"][of])
        assert (answer.status, answer.said["client"]) == (200, ADDRESSES[client][of])


def test_open_passes_at_layer_4_and_is_counted(site: Site) -> None:
    client, before = site.hosts["client"], stat(site.node, "FAILED_OPEN")
    tellers = ADDRESSES["teller"]
    with frozen(site, "bank"):
        for teller in tellers:
            answer = http(client, teller)
            assert answer.status == 200
            assert answer.said["client_port"] == answer.local_port
        kept = [connect(client, teller, 80) for teller in tellers]
    assert stat(site.node, "FAILED_OPEN") == before + 4
    for connection in kept:  # what began without the proxy goes on without it
        with connection:
            answer = ask(connection)
            assert answer.said["client_port"] == answer.local_port
    for teller in tellers:
        assert http(client, teller).status == 200
    assert stat(site.node, "FAILED_OPEN") == before + 4


def test_a_request_that_met_a_frozen_proxy_is_served_when_it_moves_again(site: Site) -> None:
    waiting = [connect(site.hosts["client"], web, 80) for web in ADDRESSES["web"]]
    with frozen(site, "shop"):
        for connection in waiting:
            connection.sendall(b"GET /late HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n")
    for connection in waiting:
        with connection:
            assert b'"path": "/late"' in receive(connection, 1 << 20)


@pytest.mark.parametrize("of", (0, 1), ids=("ipv4", "ipv6"))
def test_a_killed_proxy_takes_its_own_connections_along_and_no_others(site: Site, of: int) -> None:
    client, old = site.hosts["client"], pid_of(site, "shop")
    assert old
    with (
        connect(client, ADDRESSES["web"][of], 80) as lost,
        connect(client, ADDRESSES["teller"][of], 80) as kept,
        connect(client, ADDRESSES["web"][of], 5000) as direct,
    ):
        assert greet(direct) == ADDRESSES["client"][of]
        assert ask(lost).status == ask(kept).status == 200
        os.kill(old, signal.SIGKILL)
        with pytest.raises((ConnectionError, HTTPException)):
            ask(lost)
        assert ask(kept).status == 200
        assert echo(direct)
        wait_for(
            lambda: pid_of(site, "shop") not in (None, old) and site.is_ready("shop"),
            "another Envoy",
            PATIENCE,
        )
        assert ask(kept).status == 200
        assert echo(direct)
    assert http(client, ADDRESSES["web"][of]).status == 200
