"""Which traffic policy lets pass, and how soon a change of policy or labels is felt."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from tests.netns import wires
from tests.netns.node import Netns, Node, policy, wait_for, workload
from tests.netns.traffic import (
    connect,
    dropped,
    echo,
    greet,
    open_socket,
    ping,
    ping_dropped,
    tcp,
    tcp_dropped,
    udp,
    udp_dropped,
)

BY_POLICY_IN, BY_POLICY_OUT = "policy_ingress", "policy_egress"
VERSIONS = (4, 6)

WORKLOADS = (
    ("shop", "web"),
    ("shop", "client"),
    ("shop", "other"),
    ("bank", "teller"),
    ("bank", "visitor"),
    ("closed", "silent"),
    ("live", "server"),
    ("live", "caller"),
)
ELSEWHERE = {
    "node": {4: "10.200.0.1", 6: "fd00:200::1"},
    "world": {4: "192.0.2.18", 6: "2001:db8:1::2"},
    "fringe": {4: "192.0.2.34", 6: "2001:db8:2::2"},
}
PORTS = (5000, 5001, 5002, 5003, 5004, 6000, 6031, 6063, 6064, 5999)


@dataclass(frozen=True)
class Site:
    """The node, its workloads by name, and hosts outside."""

    node: Node
    hosts: dict[str, Netns]

    def address(self, name: str, version: int) -> str:
        """The address of a workload, of the node, or of a host outside."""
        if name in ELSEWHERE:
            return ELSEWHERE[name][version]
        number = [workload for _, workload in WORKLOADS].index(name) + 1
        return f"10.201.0.{number}" if version == 4 else f"fd00:201::{number}"

    def addresses(self, name: str) -> list[str]:
        """Both addresses."""
        return [self.address(name, version) for version in VERSIONS]


def namespace(name: str, **labels: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}


def on(port: int, protocol: str = "TCP", **more: int) -> dict[str, Any]:
    return {"port": port, "protocol": protocol, **more}


def pods(**labels: str) -> dict[str, Any]:
    return {"podSelector": {"matchLabels": labels}}


def block(cidr: str, *excepts: str) -> dict[str, Any]:
    return {"ipBlock": {"cidr": cidr, **({"except": list(excepts)} if excepts else {})}}


FINANCE = {"namespaceSelector": {"matchLabels": {"team": "finance"}}}
POLICIES = (
    policy(
        "shop",
        "web",
        podSelector={"matchLabels": {"app": "web"}},
        ingress=[
            {"from": [pods(app="client")], "ports": [on(5000), on(5000, "UDP")]},
            {"from": [pods(app="client")], "ports": [on(6000, endPort=6063)]},
            {"from": [FINANCE | pods(app="teller")], "ports": [on(5001)]},
            {"from": [FINANCE], "ports": [on(5002)]},
            {
                "from": [
                    block("192.0.2.0/24", "192.0.2.32/28"),
                    block("2001:db8::/32", "2001:db8:2::/64"),
                ],
                "ports": [on(5003)],
            },
            {
                "from": [
                    block("10.201.0.0/24", "10.201.0.5/32"),
                    block("fd00:201::/64", "fd00:201::5/128"),
                ],
                "ports": [on(5004)],
            },
            {"from": [pods(app="other")]},
        ],
    ),
    policy(
        "shop",
        "other",
        podSelector={"matchLabels": {"app": "other"}},
        policyTypes=["Egress"],
        egress=[
            {"to": [pods(app="client")], "ports": [on(5000)]},
            {"to": [pods(app="web")]},
        ],
    ),
    policy("closed", "default-deny", policyTypes=["Ingress", "Egress"]),
    policy("bank", "calls-only", podSelector={"matchLabels": {"app": "teller"}}),
)


@pytest.fixture(scope="module")
def site(shared_node: Node) -> Iterator[Site]:
    hosts = {name: shared_node.host(name) for _, name in WORKLOADS}
    hosts["world"] = shared_node.host("world")
    wires.routed(shared_node, "up0", hosts["world"], 1)
    hosts["fringe"] = shared_node.host("fringe")
    wires.routed(shared_node, "up1", hosts["fringe"], 2)
    hosts["node"] = shared_node
    site = Site(shared_node, hosts)
    shared_node.write(
        "namespaces.yaml",
        *(namespace(name, team=team) for name, team in (("bank", "finance"), ("shop", "sales"))),
    )
    shared_node.write("policies.yaml", *POLICIES)
    shared_node.write(
        "workloads.yaml",
        *(
            workload(hosts[name], space, name, site.addresses(name))
            for space, name in WORKLOADS
            if space != "live"
        ),
    )
    write_live(site)
    shared_node.start_agent()
    for name, host in hosts.items():
        if name not in ("other", "visitor", "silent", "fringe", "node"):
            host.serve(tcp=PORTS, udp=(5000, 5001))
    yield site


def write_live(site: Site, label: str = "caller", team: str = "any", apply: bool = False) -> None:
    """The namespace that tests change: who may call `live/server`, and who `live/caller` is."""
    caller, server = (
        workload(site.hosts[name], "live", name, site.addresses(name))
        for name in ("caller", "server")
    )
    caller["metadata"]["labels"] = {"app": label}
    rules = [
        {"from": [pods(app="caller")]},
        {"from": [{"namespaceSelector": {"matchLabels": {"team": "live"}}}]},
    ]
    documents = [
        namespace("live", team=team),
        caller,
        server,
        policy("live", "server", podSelector={"matchLabels": {"app": "server"}}, ingress=rules),
    ]
    (site.node.apply if apply else site.node.write)("live.yaml", *documents)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    ("who", "to", "port", "reason"),
    [
        ("client", "web", 5000, ""),
        ("client", "web", 5001, BY_POLICY_IN),
        ("visitor", "web", 5000, BY_POLICY_IN),
        ("world", "web", 5000, BY_POLICY_IN),
        # namespaceSelector, with and without a podSelector
        ("teller", "web", 5001, ""),
        ("visitor", "web", 5001, BY_POLICY_IN),
        ("teller", "web", 5002, ""),
        ("visitor", "web", 5002, ""),
        ("client", "web", 5002, BY_POLICY_IN),
        # ipBlock: an address outside, workloads' addresses
        ("world", "web", 5003, ""),
        ("fringe", "web", 5003, BY_POLICY_IN),
        ("teller", "web", 5003, BY_POLICY_IN),
        ("client", "web", 5004, ""),
        ("teller", "web", 5004, ""),
        ("visitor", "web", 5004, BY_POLICY_IN),
        ("world", "web", 5004, BY_POLICY_IN),
        # a range of ports
        ("client", "web", 6000, ""),
        ("client", "web", 6031, ""),
        ("client", "web", 6063, ""),
        ("client", "web", 5999, BY_POLICY_IN),
        ("client", "web", 6064, BY_POLICY_IN),
        # egress
        ("other", "client", 5000, ""),
        ("other", "client", 5001, BY_POLICY_OUT),
        ("other", "teller", 5000, BY_POLICY_OUT),
        ("other", "world", 5000, BY_POLICY_OUT),
        ("other", "node", 5000, BY_POLICY_OUT),
        ("other", "web", 6064, ""),
        # no policy selects the source's egress or the destination's ingress
        ("client", "world", 5000, ""),
        ("web", "client", 5001, ""),
        # default deny, both ways; replies need no rule: teller has no ingress rule at all
        ("client", "silent", 5000, BY_POLICY_IN),
        ("silent", "client", 5000, BY_POLICY_OUT),
        ("client", "teller", 5000, BY_POLICY_IN),
        ("teller", "client", 5000, ""),
        # the node's own traffic passes, as probes must
        ("node", "web", 5001, ""),
        ("node", "teller", 5000, ""),
    ],
)
def test_tcp(site: Site, who: str, to: str, port: int, reason: str, version: int) -> None:
    source, address = site.address(who, version), site.address(to, version)
    if reason:
        tcp_dropped(site.node, reason, site.hosts[who], address, port, source)
    else:
        assert tcp(site.hosts[who], address, port, source) == source


@pytest.mark.parametrize("version", VERSIONS)
def test_udp(site: Site, version: int) -> None:
    web, client = site.address("web", version), site.hosts["client"]
    assert udp(client, web, 5000) == site.address("client", version)
    udp_dropped(site.node, BY_POLICY_IN, client, web, 5001)
    udp_dropped(site.node, BY_POLICY_IN, site.hosts["visitor"], web, 5000)
    udp_dropped(
        site.node, BY_POLICY_OUT, site.hosts["other"], site.address("client", version), 5000
    )
    assert udp(site.hosts["teller"], site.address("world", version), 5001) == site.address(
        "teller", version
    )


@pytest.mark.parametrize("version", VERSIONS)
def test_echo_requests_pass_where_every_port_does(site: Site, version: int) -> None:
    web, node = site.address("web", version), site.node
    assert ping(site.hosts["other"], web) == web
    ping_dropped(node, BY_POLICY_IN, site.hosts["client"], web)  # its rules name ports
    ping_dropped(node, BY_POLICY_OUT, site.hosts["silent"], web)
    assert ping(site.hosts["web"], site.address("world", version)) == site.address("world", version)
    assert ping(node, web, source=site.address("node", version)) == web
    assert ping(site.hosts["client"], site.address("node", version)) == site.address(
        "node", version
    )


@pytest.mark.parametrize("version", VERSIONS)
def test_who_answers_may_not_call_back(site: Site, version: int) -> None:
    """The way back is open for that connection alone, also between the same two ports."""
    other, client = site.address("other", version), site.address("client", version)
    with connect(site.hosts["other"], client, 5000) as connection:
        greet(connection)
        taken = connection.getsockname()[1]
        tcp_dropped(site.node, BY_POLICY_OUT, site.hosts["other"], client, taken)
        assert echo(connection)
    silent = site.address("silent", version)
    tcp_dropped(site.node, BY_POLICY_OUT, site.hosts["silent"], other, 5000, source=silent)


@pytest.mark.parametrize("version", VERSIONS)
def test_revoking_a_rule_cuts_an_established_connection_and_granting_it_mends_it(
    site: Site, version: int
) -> None:
    server, caller = site.address("server", version), site.hosts["caller"]
    with connect(caller, server, 5000) as connection:
        assert greet(connection) == site.address("caller", version)
        assert echo(connection)
        with dropped(site.node, BY_POLICY_IN):
            write_live(site, label="stranger", apply=True)
            connection.sendall(b"cut off")
        assert silent(connection)
        write_live(site, apply=True)
        connection.settimeout(5)
        assert connection.recv(100) == b"cut off"  # TCP's own retransmission brought it
        assert echo(connection)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_revoked_rule_also_holds_back_what_the_server_sends(site: Site, version: int) -> None:
    listener = open_socket(
        site.hosts["server"],
        site.address("server", version),
        socket.SOCK_STREAM,
        site.address("server", version),
        7000,
    )
    with listener:
        listener.listen()
        with connect(site.hosts["caller"], site.address("server", version), 7000) as connection:
            accepted, _ = listener.accept()
            with accepted:
                with dropped(site.node, BY_POLICY_IN):
                    write_live(site, label="stranger", apply=True)
                    accepted.sendall(b"too late")
                assert silent(connection)
                write_live(site, apply=True)
                assert connection.recv(100) == b"too late"


@pytest.mark.parametrize("version", VERSIONS)
def test_the_labels_of_a_namespace_take_effect_on_running_traffic(site: Site, version: int) -> None:
    server, caller = site.address("server", version), site.hosts["caller"]
    write_live(site, label="stranger", apply=True)
    tcp_dropped(site.node, BY_POLICY_IN, caller, server, 5000)
    write_live(site, label="stranger", team="live", apply=True)
    with connect(caller, server, 5000) as connection:
        greet(connection)
        with dropped(site.node, BY_POLICY_IN):
            write_live(site, label="stranger", team="other", apply=True)
            connection.sendall(b"x")
        write_live(site, label="stranger", team="live", apply=True)
        assert wait_for(lambda: connection.recv(1), "the retransmission") == b"x"
    write_live(site, apply=True)


def silent(connection: socket.socket) -> bool:
    """Whether nothing is there to be read now; the drop that was counted says why."""
    connection.setblocking(False)
    try:
        return not connection.recv(1)
    except BlockingIOError:
        return True
    finally:
        connection.settimeout(5)
