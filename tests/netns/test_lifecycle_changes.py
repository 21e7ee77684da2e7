"""Changes of every kind, under load where load should not notice."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyagent.kernel.wiring import Wiring
from tests.netns.lifecycle import (
    ADDRESSES,
    POLICIES,
    TENANTS,
    Town,
    build,
    envoy_pid,
    filters,
    serves,
    standing,
)
from tests.netns.load import Flow, Load
from tests.netns.node import Netns, Node, ip, policy, tenant, wait_for, workload
from tests.netns.traffic import ask, connect, handoffs, http, tcp, tcp_dropped

WEB, WEB6 = ADDRESSES["web"]
CLIENT, CLIENT6 = ADDRESSES["client"]
RESYNC = 12.0  # seconds, with which the agent looks at the node again, and some
MANY = 20  # tenants
CHANGES = 200
WIRED = ("shop/web", "bank/teller")
MiB = 1024 * 1024


@pytest.fixture(scope="module")
def town(shared_node: Node) -> Iterator[Town]:
    yield build(shared_node)


@pytest.fixture(autouse=True)
def first_manifests(town: Town) -> Iterator[None]:
    """Each test ends with what `build` began with."""
    yield
    node = town.node
    before = node.state
    for file in node.manifests.iterdir():
        if file.name not in ("tenants.yaml", "policies.yaml", "workloads.yaml"):
            file.unlink()
    node.write("tenants.yaml", *TENANTS)
    node.write("policies.yaml", *POLICIES)
    node.write("workloads.yaml", *map(town.workload, ADDRESSES))
    node.wait_applied(before)


def test_a_port_is_handed_off_and_back(town: Town) -> None:
    """Connections go on as they began, new ones go the new way, and none is refused."""
    node, client = town.node, town.hosts["client"]
    flows = (
        Flow("http1", WEB, 8080, CLIENT),
        Flow("http2", WEB6, 8080, CLIENT6),
        Flow("http1 new", WEB, 8080, CLIENT),
        Flow("http2 new", WEB6, 8080, CLIENT6, 0.03),
    )
    with Load(client, *flows, *town.flows("client", "web")) as load:
        old = connect(client, WEB, 8080)
        assert ask(old).status == 200
        for _ in range(3):
            node.apply("tenants.yaml", tenant("shop", 80, 8080), TENANTS[1])
            before = handoffs(node)
            wait_for(lambda: handoffs(node) > before + 20, "connections handed off")  # noqa: B023
            handed_off = connect(client, WEB, 8080)
            assert ask(handed_off).status == 200
            node.apply("tenants.yaml", *TENANTS)
            assert ask(handed_off).status == 200
            handed_off.close()
        assert ask(old).status == 200
        old.close()
        load.stop_unharmed()


def test_a_tenant_comes_and_goes(town: Town) -> None:
    """Its proxy listens before anything goes there, and is gone when it has drained."""
    node, client = town.node, town.hosts["client"]
    before = standing(node, "bank")
    with (
        Load(client, Flow("http1 new", WEB, 80, CLIENT), Flow("tcp", WEB, 5000, CLIENT)) as load,
        Load(town.hosts["clerk"], *town.flows("clerk", "teller")) as other,
    ):
        node.apply("tenants.yaml", TENANTS[1])
        wait_for(lambda: envoy_pid(node, "shop") is None, "the end of the proxy")
        wait_for(lambda: len(filters(node)) == len(before.filters) - 2, "the end of its namespace")
        wait_for(lambda: not (node.state_dir / "proxies/shop").exists(), "the end of its files")
        node.apply("tenants.yaml", *TENANTS)
        assert envoy_pid(node, "shop") is not None
        seen = handoffs(node)
        wait_for(lambda: handoffs(node) > seen, "connections handed off")
        load.stop_unharmed()
        other.stop_unharmed()
    assert standing(node, "bank").proxies == before.proxies


@pytest.mark.parametrize("pause", (0.0, 2.0), ids=("at once", "while it drains"))
def test_a_proxy_that_was_not_needed_is_needed_again(town: Town, pause: float) -> None:
    """Nobody's connection is refused; what is kept waiting is the change, and not for long."""
    node, client = town.node, town.hosts["client"]
    old = envoy_pid(node, "shop")
    with Load(client, Flow("http1 new", WEB, 80, CLIENT), Flow("udp", WEB, 5000, CLIENT)) as load:
        busy = connect(client, WEB, 80)
        busy.sendall(b"GET /download?bytes=4000000&rate=1 HTTP/1.1\r\nhost: web\r\n\r\n")
        assert busy.recv(1)
        node.apply("tenants.yaml", tenant("shop"), TENANTS[1])
        gone = time.monotonic() + pause
        wait_for(lambda: time.monotonic() >= gone, "the moment")
        node.apply("tenants.yaml", *TENANTS)
        assert node.state is not None
        assert node.state.apply_seconds < 2.0
        seen = handoffs(node)
        wait_for(lambda: handoffs(node) > seen, "connections handed off")
        load.stop_unharmed()
        busy.close()
    assert (envoy_pid(node, "shop") == old) == (pause == 0.0)


def test_a_workload_comes_moves_changes_and_goes(town: Town) -> None:
    node, client = town.node, town.hosts["client"]
    first, second = node.host("first"), node.host("second")
    one, two, three = ("10.201.0.7", "fd00:201::7"), ("10.201.0.8", "fd00:201::7"), ("10.201.0.9",)

    def extra(host: Netns, addresses: tuple[str, ...], name: str = "extra") -> None:
        node.apply("extra.yaml", workload(host, "shop", name, addresses))

    with Load(client, *town.flows("client", "web")) as load:
        extra(first, one)
        first.serve(tcp=[5000])
        assert tcp(client, one[0], 5000) == CLIENT
        extra(first, two)
        assert tcp(client, two[0], 5000) == CLIENT
        assert tcp(client, two[1], 5000) == CLIENT6
        assert one[0] not in ip("-n", first.name, "addr") + ip("-n", node.name, "route")
        assert one[0] not in ip("-n", node.name, "neigh", "show", "nud", "permanent")
        extra(second, two)
        assert two[0] not in ip("-n", first.name, "addr")
        second.serve(tcp=[5000])
        assert tcp(client, two[1], 5000) == CLIENT6
        extra(second, two, "renamed")
        assert tcp(client, two[0], 5000) == CLIENT
        node.apply(
            "extra.yaml",
            workload(first, "shop", "renamed", two),
            workload(second, "shop", "extra", three),
        )
        assert tcp(client, two[0], 5000) == CLIENT
        assert tcp(client, three[0], 5000) == CLIENT
        node.apply("extra.yaml")
        load.stop_unharmed()
    for host in (first, second):
        assert "eth0" not in ip("-n", host.name, "addr")
    with node.tables() as tables:
        assert len(tables.read().workloads) == len(ADDRESSES)


def test_what_is_taken_away_behind_its_back_is_mended(town: Town) -> None:
    """Within ten seconds: a workload's namespace made anew, an interface brought down, filters
    removed, a proxy's interface deleted."""
    node, hosts, wiring = town.node, town.hosts, Wiring(town.node.state_dir)
    client, proxy = hosts["client"], wiring.interface(wiring.proxy_alias("shop"))
    web, teller = (wiring.interface(wiring.workload_alias(f"{key}")) for key in WIRED)
    node.apply("policies.yaml", policy("shop", "own", ingress=[{"ports": [{"port": 80}]}]))
    tcp_dropped(node, "policy_ingress", client, WEB, 5000)
    before = filters(node)
    ip("netns", "del", client.name)
    ip("netns", "add", client.name)
    ip("-n", node.name, "link", "del", proxy)
    for hook in ("ingress", "egress"):
        assert node.run("tc", "filter", "del", "dev", web, hook).returncode == 0
    ip("-n", node.name, "link", "set", teller, "down")
    assert len(filters(node)) == len(before) - 2 - 2 - 2
    wait_for(lambda: len(filters(node)) == len(before), "all filters", RESYNC)
    wait_for(lambda: ADDRESSES["teller"][0] in ip("-n", node.name, "route"), "the route", RESYNC)
    wait_for(lambda: serves(client, WEB), "the proxy")
    for to, me in ((WEB, CLIENT), (WEB6, CLIENT6)):
        assert http(client, to).said["client"] == me
    tcp_dropped(node, "policy_ingress", client, WEB, 5000)
    assert tcp(hosts["clerk"], ADDRESSES["teller"][0], 5000) == ADDRESSES["clerk"][0]


def resident(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_many_changes_cost_no_memory_and_no_descriptors(
    town: Town, capsys: pytest.CaptureFixture[str]
) -> None:
    node, host = town.node, town.node.host("extra")
    assert node.agent is not None
    agent = node.agent.pid
    figures = []
    for number in range(1, CHANGES + 1):
        extra = [policy("shop", f"p{number}", ingress=[{"ports": [{"port": number}]}])]
        if number % 4 < 2:
            extra.append(workload(host, "shop", "extra", [f"10.201.1.{number % 250}"]))
        node.apply("extra.yaml", *extra)
        if number % (CHANGES // 2) == 0:
            figures.append((resident(agent), len(list(Path(f"/proc/{agent}/fd").iterdir()))))
    (memory, files), (more_memory, more_files) = figures
    with capsys.disabled():
        print(
            f"\n{CHANGES} changes: {more_files} descriptors, {more_memory / MiB:.1f} MiB; "
            f"after half of them {files} and {memory / MiB:.1f} MiB"
        )
    assert more_files == files
    assert more_memory - memory < 2 * MiB


def test_twenty_tenants_at_once(town: Town, capsys: pytest.CaptureFixture[str]) -> None:
    node, client = town.node, town.hosts["client"]
    names = [f"t{number}" for number in range(MANY)]
    hosts = {name: node.host(name) for name in names}
    address = {name: f"10.210.0.{number}" for number, name in enumerate(names, 1)}
    for host in hosts.values():
        host.serve(http=[80])
    begun = time.monotonic()
    with Load(client, *town.flows("client", "web")) as load:
        node.write(
            "many.yaml",
            *(tenant(name, 80) for name in names),
            *(workload(hosts[name], name, "web", [address[name]]) for name in names),
        )
        waiting = set(names)

        def answered() -> bool:
            waiting.difference_update({n for n in waiting if serves(client, address[n])})
            return not waiting

        wait_for(answered, waiting, 40)
        seconds = time.monotonic() - begun
        load.stop_unharmed()
    pids = {name: envoy_pid(node, name) for name in names}
    assert None not in pids.values()
    assert len(set(pids.values())) == MANY
    assert all(http(client, address[name]).said["client"] == CLIENT for name in names)
    with capsys.disabled():
        print(f"\n{MANY} tenants at once: all are served by their own Envoy after {seconds:.1f} s")
    before = node.state
    (node.manifests / "many.yaml").unlink()
    node.wait_applied(before)
    wait_for(lambda: not any(envoy_pid(node, name) for name in names), "the end of all", 20)
