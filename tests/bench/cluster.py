"""A made cluster of any size, as manifests for Sluice and as plain rules for other filters.

Called by the benchmarks. Each app of each namespace has one policy. App A of team T admits three
others, A+1 of team T+1 and so on, and they may leave for it: so what a policy lets in, the
sender's policy lets out. Everything follows from the numbers, nothing is drawn at random.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

_FIRST_V4 = int(IPv4Address("10.64.1.0"))
_FIRST_V6 = int(IPv6Address("fd00:64::1:0"))

UDP_PORT = 5000
TCP_PORT = 8080

# A port of a rule: protocol and number.
Port = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Size:
    """How large: one policy per app and namespace, `peers` apps admitted by each."""

    namespaces: int
    apps: int
    pods: int
    teams: int = 7
    peers: int = 3
    blocks: bool = True  # whether each policy admits a CIDR too


TINY = Size(namespaces=2, apps=1, pods=1, teams=2, peers=1, blocks=False)
SMALL = Size(namespaces=14, apps=2, pods=10)
FULL = Size(namespaces=50, apps=20, pods=10)


@dataclass(frozen=True, slots=True)
class App:
    """Workloads with the same labels; a policy selects them."""

    size: Size
    namespace: int
    number: int

    @property
    def team(self) -> int:
        """The team of its namespace, a namespace label."""
        return self.namespace % self.size.teams

    @property
    def at(self) -> int:
        """Its number in the whole cluster."""
        return self.namespace * self.size.apps + self.number

    def key(self, pod: int) -> str:
        """Name of one of its workloads."""
        return f"n{self.namespace}/a{self.number}-{pod}"

    def v4(self, pod: int) -> IPv4Address:
        """That workload's IPv4 address."""
        return IPv4Address(_FIRST_V4 + self.at * self.size.pods + pod)

    def v6(self, pod: int) -> IPv6Address:
        """That workload's IPv6 address."""
        return IPv6Address(_FIRST_V6 + self.at * self.size.pods + pod)

    @property
    def ports(self) -> tuple[Port, ...]:
        """What it serves to its peers."""
        return ("TCP", TCP_PORT), ("TCP", 9000 + self.number), ("UDP", UDP_PORT)

    @property
    def block(self) -> str:
        """A CIDR that it admits."""
        return f"192.168.{self.at % 200}.0/24"


# What an app may send to its peers.
EGRESS_PORTS: tuple[Port, ...] = (("TCP", TCP_PORT), ("UDP", UDP_PORT))


def apps(size: Size) -> Iterator[App]:
    """All apps."""
    for namespace in range(size.namespaces):
        for number in range(size.apps):
            yield App(size, namespace, number)


def peers(app: App, sign: int) -> list[list[App]]:
    """Whom its policy admits (`sign` 1) or lets it reach (-1), by rule entry."""
    size = app.size
    return [
        [
            App(size, namespace, (app.number + sign * step) % size.apps)
            for namespace in range(size.namespaces)
            if namespace % size.teams == (app.team + sign * step) % size.teams
        ]
        for step in range(1, size.peers + 1)
    ]


def probe(size: Size) -> tuple[App, App, int]:
    """A client's and a server's app and the pod of both, in the middle of every list."""
    server = App(size, size.namespaces // 2, size.apps // 2)
    groups = peers(server, 1)
    group = groups[len(groups) // 2]
    return group[len(group) // 2], server, size.pods // 2


# Manifests


def workload_yaml(app: App, pod: int, interface: str) -> str:
    """One workload's document."""
    namespace, name = app.key(pod).split("/")
    return f"""---
apiVersion: sluice.dev/v1alpha1
kind: Workload
metadata:
  name: {name}
  namespace: {namespace}
  labels: {{app: a{app.number}, tier: x{app.number % 4}, hash: h{app.at}}}
spec:
  interface: {interface}
  addresses: ["{app.v4(pod)}", "{app.v6(pod)}"]
  ports:
  - {{name: http, port: {TCP_PORT}, protocol: TCP}}
"""


def _peers_yaml(app: App, sign: int) -> str:
    size = app.size
    return "".join(
        f"""    - podSelector: {{matchLabels: {{app: a{(app.number + sign * step) % size.apps}}}}}
      namespaceSelector: {{matchLabels: {{team: t{(app.team + sign * step) % size.teams}}}}}
"""
        for step in range(1, size.peers + 1)
    )


def _ports_yaml(ports: tuple[Port, ...]) -> str:
    return "".join(f"    - {{protocol: {name}, port: {port}}}\n" for name, port in ports)


def policy_yaml(app: App, extra: tuple[Port, ...] = ()) -> str:
    """One app's policy; `extra` ports are admitted in addition."""
    block = f"    - ipBlock: {{cidr: {app.block}}}\n" if app.size.blocks else ""
    return f"""---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {{name: p{app.number}, namespace: n{app.namespace}}}
spec:
  podSelector: {{matchLabels: {{app: a{app.number}}}}}
  policyTypes: [Ingress, Egress]
  ingress:
  - from:
{_peers_yaml(app, 1)}{block}    ports:
{_ports_yaml(app.ports + extra)}  egress:
  - to:
{_peers_yaml(app, -1)}    ports:
{_ports_yaml(EGRESS_PORTS)}"""


def namespace_yaml(number: int, teams: int) -> str:
    """One namespace's document."""
    labels = f"{{team: t{number % teams}}}"
    return f"""---
apiVersion: v1
kind: Namespace
metadata: {{name: n{number}, labels: {labels}}}
"""


def interface(number: int) -> str:
    """Stand-in name of the interface of the cluster's workload with that number."""
    return f"w{number}"


def write(size: Size, directory: Path) -> None:
    """All manifests: a file per namespace for its workloads and one for its policies."""
    for number in range(size.namespaces):
        own = [App(size, number, app) for app in range(size.apps)]
        workloads = [
            workload_yaml(app, pod, interface(app.at * size.pods + pod))
            for app in own
            for pod in range(size.pods)
        ]
        text = namespace_yaml(number, size.teams) + "".join(workloads)
        (directory / f"workloads-{number}.yaml").write_text(text)
        policies = "".join(policy_yaml(app) for app in own)
        (directory / f"policies-{number}.yaml").write_text(policies)
