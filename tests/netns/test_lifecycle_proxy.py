"""A tenant's Envoy killed or frozen: who notices, and that nothing gets past it."""

from __future__ import annotations

import os
import signal
import socket
import statistics
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import pytest

from tests.netns.lifecycle import ADDRESSES, Town, build, envoy_pid, serves, standing, stat
from tests.netns.load import Load
from tests.netns.node import Netns, Node, wait_for
from tests.netns.traffic import http

REPETITIONS = 10
BACK = 2.0  # seconds in which a killed proxy serves again, and in which a frozen one is noticed
PORTS = range(20_000, 30_000)  # of the clients; the proxies' namespaces use the kernel's range
WEB, TELLER = ADDRESSES["web"][0], ADDRESSES["teller"][0]


@pytest.fixture(scope="module")
def town(shared_node: Node) -> Iterator[Town]:
    town = build(shared_node)
    for name in ("client", "clerk"):
        setting = f"net.ipv4.ip_local_port_range={PORTS[0]} {PORTS[-1]}"
        assert town.hosts[name].run("sysctl", "-qw", setting).returncode == 0
    yield town


def signal_envoy(node: Node, tenant: str, how: signal.Signals) -> None:
    pid = envoy_pid(node, tenant)
    assert pid is not None
    os.kill(pid, how)


def is_ready(node: Node, tenant: str) -> bool:
    """What the kernel believes."""
    assert node.state is not None
    [number] = [number for number, name in node.state.tenants.items() if name == tenant]
    with node.tables() as tables:
        return bool((tables["tenants"].get({"tenant": number}) or {})["ready"])


@contextmanager
def past_the_proxy(server: Netns, port: int = 80) -> Iterator[list[int]]:
    """Source ports of the packets to a port of the server that clients themselves sent: what comes
    by way of a proxy has a port of the proxy's namespace. Seen at the server's interface."""
    found: list[int] = []
    done = threading.Event()
    tap = server.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x0800))
    tap.settimeout(0.05)

    def work() -> None:
        while not done.is_set():
            with suppress(TimeoutError):
                packet = tap.recv(65_536)
                offset = (packet[0] & 15) * 4
                source, destination = struct.unpack_from("!HH", packet, offset)
                if packet[9] == socket.IPPROTO_TCP and destination == port and source in PORTS:
                    found.append(source)

    thread = threading.Thread(target=work)
    with tap:
        thread.start()
        try:
            yield found
        finally:
            done.set()
            thread.join()


@dataclass
class Attempts:
    """Requests on new connections, a thousand a second."""

    good: int = 0
    refused: int = 0


@contextmanager
def attempts(host: Netns, to: str) -> Iterator[Attempts]:
    """What a client does that will not take no for an answer."""
    seen, done = Attempts(), threading.Event()

    def work() -> None:
        while not done.wait(0.001):
            good = serves(host, to)
            seen.good += good
            seen.refused += not good

    worker = threading.Thread(target=work)
    worker.start()
    try:
        yield seen
    finally:
        done.set()
        worker.join()


def seconds_until(condition: Callable[[], object], since: float) -> float:
    wait_for(condition, "it", 10.0)
    return time.monotonic() - since


@pytest.mark.timeout(200)
def test_a_killed_proxy_is_back_and_nothing_gets_past_it(
    town: Town, capsys: pytest.CaptureFixture[str]
) -> None:
    node, client, clerk = town.node, town.hosts["client"], town.hosts["clerk"]
    at_layer_4 = [flow for flow in town.flows("client", "web") if flow.port != 80]
    times = []
    with (
        past_the_proxy(town.hosts["web"]) as past,
        Load(clerk, *town.flows("clerk", "teller")) as other,
        Load(client, *at_layer_4) as own,
        attempts(client, WEB) as seen,
    ):
        for _ in range(REPETITIONS):
            enough = seen.good + 5
            wait_for(lambda: seen.good >= enough, "a proxy that serves")  # noqa: B023
            old, killed = envoy_pid(node, "shop"), time.monotonic()
            signal_envoy(node, "shop", signal.SIGKILL)
            wait_for(lambda: not serves(client, WEB), "its end")
            times.append(seconds_until(lambda: serves(client, WEB), killed))
            assert envoy_pid(node, "shop") not in (None, old)
        other.stop_unharmed()
        own.stop_unharmed()
    assert past == []
    assert seen.refused > REPETITIONS
    with capsys.disabled():
        print(
            f"\nEnvoy killed {REPETITIONS} times: serves again after "
            f"{statistics.median(times):.2f} s (median), {max(times):.2f} s (most); "
            f"{seen.good} requests of new connections served, {seen.refused} refused, none past it"
        )
    assert max(times) < BACK


@pytest.mark.parametrize("tenant", ("shop", "bank"))
def test_a_frozen_proxy_is_noticed(
    town: Town, tenant: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Closed refuses meanwhile; open lets requests pass by, and counts them."""
    node, closed = town.node, tenant == "shop"
    client, server = ("client", "web") if closed else ("clerk", "teller")
    host, to = town.hosts[client], ADDRESSES[server][0]
    wait_for(lambda: serves(host, to), "a proxy that serves")
    with past_the_proxy(town.hosts[server]) as past:
        frozen = time.monotonic()
        signal_envoy(node, tenant, signal.SIGSTOP)
        try:
            noticed = seconds_until(lambda: not is_ready(node, tenant), frozen)
            assert past == []
            before = stat(node, "FAILED_OPEN")
            answers = [serves(host, to) for _ in range(20)]
            passed = stat(node, "FAILED_OPEN") - before
        finally:
            signal_envoy(node, tenant, signal.SIGCONT)
        wait_for(lambda: is_ready(node, tenant), "a proxy that serves")
        assert serves(host, to)
        if not closed:
            wait_for(lambda: len(set(past)) == 20, "what the client sent past the proxy")
    assert (answers, passed) == (([False] * 20, 0) if closed else ([True] * 20, 20))
    assert len(set(past)) == passed
    with capsys.disabled():
        print(f"\na frozen Envoy is noticed after {noticed:.2f} s")
    assert noticed < BACK


def test_closed_stays_closed_without_agent_and_proxy(town: Town) -> None:
    node, client = town.node, town.hosts["client"]
    wait_for(lambda: serves(client, WEB), "a proxy that serves")
    old = envoy_pid(node, "shop")
    with past_the_proxy(town.hosts["web"]) as past:
        node.stop_agent(signal.SIGKILL)
        signal_envoy(node, "shop", signal.SIGKILL)
        wait_for(lambda: envoy_pid(node, "shop") is None, "its end")
        assert not any(serves(client, WEB) for _ in range(50))
        assert http(client, WEB, 8080).status == 200
        with attempts(client, WEB) as seen:
            begun = time.monotonic()
            node.start_agent()
            back = seconds_until(lambda: serves(client, WEB), begun)
    assert envoy_pid(node, "shop") not in (None, old)
    assert past == []
    assert seen.refused > 0
    assert back < 2 * BACK  # the agent's own start included


def test_a_proxy_is_looked_after_also_while_manifests_are_refused(town: Town) -> None:
    """By an agent that has found them so."""
    node, client = town.node, town.hosts["client"]
    wait_for(lambda: serves(client, WEB), "a proxy that serves")
    before = standing(node, "shop", "bank")
    node.stop_agent()
    node.write("broken.yaml", {"kind": "Nonsense"})
    try:
        node.start_agent(wait=False)
        wait_for(lambda: node.state and node.state.problems, "the refusal")
        assert standing(node, "shop", "bank") == before
        killed = time.monotonic()
        signal_envoy(node, "shop", signal.SIGKILL)
        wait_for(lambda: not is_ready(node, "shop"), "the news")
        assert seconds_until(lambda: serves(client, WEB), killed) < BACK
    finally:
        last = node.state
        (node.manifests / "broken.yaml").unlink()
    node.wait_applied(last)
    assert standing(node, "shop", "bank").rows == before.rows
