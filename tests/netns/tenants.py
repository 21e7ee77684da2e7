"""The site of the handoff tests: two tenants with proxies, a namespace without, hosts outside."""

from __future__ import annotations

import json
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyagent.kernel.wiring import Wiring
from tests.netns import wires
from tests.netns.node import Netns, Node, ip, policy, tenant, workload

ADDRESSES = {
    "web": ("10.201.0.1", "fd00:201::1"),
    "client": ("10.201.0.2", "fd00:201::2"),
    "limited": ("10.201.0.3", "fd00:201::3"),
    "trap": ("10.201.0.4", "fd00:201::4"),
    "teller": ("10.202.0.1", "fd00:202::1"),
    "clerk": ("10.202.0.2", "fd00:202::2"),
    "guest": ("10.203.0.1", "fd00:203::1"),
    "shed": ("10.203.0.2", "fd00:203::2"),
    "world": ("192.0.2.18", "2001:db8:1::2"),
    "far": ("198.51.100.2", "2001:db8:f::2"),
    "node": ("10.200.0.1", "fd00:200::1"),
}
SPACES = {
    "shop": ("web", "client", "limited", "trap"),
    "bank": ("teller", "clerk"),
    "plain": ("guest", "shed"),
}
NARROW = 1300  # bytes, MTU of the way to "far"

LIMITED = policy(
    "shop",
    "limited",
    podSelector={"matchLabels": {"app": "limited"}},
    policyTypes=["Egress"],
    egress=[{"to": [{"podSelector": {"matchLabels": {"app": "web"}}}], "ports": [{"port": 80}]}],
)
TELLER = policy(
    "bank",
    "teller",
    podSelector={"matchLabels": {"app": "teller"}},
    ingress=[{"ports": [{"port": 80}, {"port": 5000}]}, {"from": [{"podSelector": {}}]}],
)


class ProxySpace(Netns):
    """The namespace of a tenant's proxy. Its sockets may take any address for their own, as the
    proxy's may (IP_TRANSPARENT)."""

    def __init__(self, node: Node, tenant: str) -> None:
        self.name = Wiring(node.state_dir).proxy_namespace(tenant)
        self.path = f"/run/netns/{self.name}"
        self.processes = []

    def socket(
        self, family: socket.AddressFamily, kind: socket.SocketKind, protocol: int = 0
    ) -> socket.socket:
        made = super().socket(family, kind, protocol)
        if family is socket.AF_INET:
            made.setsockopt(socket.IPPROTO_IP, socket.IP_TRANSPARENT, 1)
        elif family is socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, 75, 1)  # IPV6_TRANSPARENT
        return made


@dataclass(frozen=True)
class Site:
    """The node and its hosts by name. `of` says which of a host's two addresses is meant.

    "shop" hands port 80 off and fails closed, "bank" ports 80 and 8080 and fails open; nothing
    listens on "trap"; "far" is behind a router whose interface to it has a small MTU.
    """

    node: Node
    hosts: dict[str, Netns]

    def proxy_directory(self, tenant: str) -> Path:
        """Where a tenant's Envoy keeps its files."""
        return self.node.state_dir / "proxies" / tenant

    def access_log(self, tenant: str) -> list[dict[str, Any]]:
        """The requests that a tenant's Envoy has logged; it writes them once a second."""
        path = self.proxy_directory(tenant) / "access.log"
        lines = path.read_text().splitlines() if path.exists() else []
        return [json.loads(line) for line in lines]

    def is_ready(self, tenant: str) -> bool:
        """Whether the kernel hands connections to the tenant's proxy."""
        state = self.node.state
        assert state is not None
        [number] = [number for number, name in state.tenants.items() if name == tenant]
        with self.node.tables() as tables:
            return bool((tables["tenants"].get({"tenant": number}) or {})["ready"])


def build(node: Node) -> Site:
    """Wires everything, starts the agent and then the servers."""
    hosts = {name: node.host(name) for name in (*ADDRESSES, "router") if name != "node"}
    wires.routed(node, "up0", hosts["world"], 1)
    wires.routed(node, "up1", hosts["router"], 2)
    wires.behind(hosts["router"], "narrow", hosts["far"], "198.51.100", "2001:db8:f:")
    ip("-n", hosts["router"].name, "link", "set", "narrow", "mtu", str(NARROW))
    wires.route(node, "198.51.100.0/24", "192.0.2.34")
    wires.route(node, "2001:db8:f::/64", "2001:db8:2::2")
    node.write("tenants.yaml", tenant("shop", 80), tenant("bank", 80, 8080, failure_mode="open"))
    node.write("policies.yaml", LIMITED, TELLER)
    node.write(
        "workloads.yaml",
        *(
            workload(hosts[name], space, name, ADDRESSES[name])
            for space, names in SPACES.items()
            for name in names
        ),
    )
    node.start_agent()
    for name in ("web", "teller", "shed", "world", "far"):
        hosts[name].serve(http=[80, 8080], tcp=[5000, 5001], udp=[5000])
    return Site(node, hosts)
