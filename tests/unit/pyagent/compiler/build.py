"""Short ways to write a small cluster, and to read what the compiler made of it."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_address, ip_network

from pyagent.compiler import NodeFacts, Numbers, compile_snapshot
from pyagent.compiler.rows import ANY_PEER, Compiled, PolicyKey, PolicyValue
from pyagent.config import NodeTraffic
from pyagent.model import (
    Action,
    ClusterNetworkPolicy,
    ClusterRule,
    Direction,
    FailureMode,
    IPBlock,
    LabelSelector,
    NamedPort,
    Namespace,
    NetworkPolicy,
    Operator,
    Origin,
    Placement,
    PolicyPeer,
    PolicyPort,
    PolicyRule,
    Protocol,
    Requirement,
    Snapshot,
    Tenant,
    Tier,
    Workload,
)

ORIGIN = Origin("cluster.yaml", 1)
ALL = LabelSelector()
Rules = tuple[PolicyRule, ...]


def labels(text: str) -> dict[str, str]:
    """Read "app=web tier=front"."""
    return dict(pair.split("=", 1) for pair in text.split())


def select(text: str = "") -> LabelSelector:
    return LabelSelector(labels(text))


def workload(key: str, text: str, addresses: str = "", *ports: NamedPort) -> Workload:
    namespace, name = key.split("/")
    found = tuple(ip_address(address) for address in addresses.split())
    return Workload(namespace, name, labels(text), found, ports, f"veth-{name}", None, ORIGIN)


def pods(text: str = "") -> PolicyPeer:
    """Return a peer with a podSelector alone."""
    return PolicyPeer(pod_selector=select(text))


def namespaces(text: str = "") -> PolicyPeer:
    """Return a peer with a namespaceSelector alone."""
    return PolicyPeer(namespace_selector=select(text))


def block(cidr: str, *excepts: str) -> PolicyPeer:
    """Return a peer with an ipBlock."""
    return PolicyPeer(ip_block=IPBlock(ip_network(cidr), tuple(map(ip_network, excepts))))


def tcp(port: int | str | None = None, end: int | None = None) -> PolicyPort:
    return PolicyPort(Protocol.TCP, port, end)


def udp(port: int | str | None = None, end: int | None = None) -> PolicyPort:
    return PolicyPort(Protocol.UDP, port, end)


def rule(
    peers: PolicyPeer | tuple[PolicyPeer, ...] = (), ports: PolicyPort | tuple[PolicyPort, ...] = ()
) -> PolicyRule:
    return PolicyRule(
        peers if isinstance(peers, tuple) else (peers,),
        ports if isinstance(ports, tuple) else (ports,),
    )


def policy(
    key: str,
    selector: LabelSelector = ALL,
    ingress: Rules | None = None,
    egress: Rules | None = None,
) -> NetworkPolicy:
    """Return a policy of those directions that are given; () denies all."""
    namespace, name = key.split("/")
    given = {Direction.INGRESS: ingress, Direction.EGRESS: egress}
    directions = frozenset(way for way, rules in given.items() if rules is not None)
    return NetworkPolicy(namespace, name, selector, directions, ingress or (), egress or (), ORIGIN)


def accept(*peers: PolicyPeer, ports: tuple[PolicyPort, ...] = ()) -> ClusterRule:
    return ClusterRule(peers, ports, Action.ACCEPT)


def deny(*peers: PolicyPeer, ports: tuple[PolicyPort, ...] = ()) -> ClusterRule:
    return ClusterRule(peers, ports, Action.DENY)


def skip(*peers: PolicyPeer, ports: tuple[PolicyPort, ...] = ()) -> ClusterRule:
    """Return a rule with the action Pass."""
    return ClusterRule(peers, ports, Action.PASS)


def cluster(
    name: str,
    *ingress: ClusterRule,
    tier: Tier = Tier.ADMIN,
    priority: int = 10,
    egress: tuple[ClusterRule, ...] = (),
    subject: str = "",
) -> ClusterNetworkPolicy:
    """Return a policy for the workloads of every namespace that have the labels `subject`."""
    return ClusterNetworkPolicy(name, tier, priority, ALL, select(subject), ingress, egress, ORIGIN)


def tenant(name: str, *ports: int) -> Tenant:
    return Tenant(name, Placement.TENANT, FailureMode.CLOSED, frozenset(ports), ORIGIN)


Thing = Workload | NetworkPolicy | ClusterNetworkPolicy | Tenant


# Names the labels of most tests' workloads, so that they count, and selects none of them.
NAMING = policy(
    "elsewhere/naming",
    LabelSelector({}, tuple(Requirement(key, Operator.EXISTS) for key in ("app", "tier"))),
    (),
)


def snapshot(*things: Thing, **namespace_labels: str) -> Snapshot:
    """Return a snapshot; `shop="team=red"` labels the namespace shop."""
    things = (*things, NAMING)
    names = {
        thing.name if isinstance(thing, Tenant) else thing.namespace
        for thing in things
        if not isinstance(thing, ClusterNetworkPolicy)
    }
    return Snapshot(
        namespaces={
            name: Namespace(
                name,
                {"kubernetes.io/metadata.name": name, **labels(namespace_labels.get(name, ""))},
                ORIGIN,
            )
            for name in names | set(namespace_labels)
        },
        workloads={thing.key: thing for thing in things if isinstance(thing, Workload)},
        policies={
            f"{thing.namespace}/{thing.name}": thing
            for thing in things
            if isinstance(thing, NetworkPolicy)
        },
        tenants={thing.name: thing for thing in things if isinstance(thing, Tenant)},
        cluster_policies={
            thing.name: thing for thing in things if isinstance(thing, ClusterNetworkPolicy)
        },
    )


def node(addresses: str = "", traffic: NodeTraffic = NodeTraffic.ALLOW) -> NodeFacts:
    return NodeFacts(frozenset(map(ip_address, addresses.split())), traffic)


POLICED = node("", NodeTraffic.POLICY)


def compiled(state: Snapshot, facts: NodeFacts = POLICED) -> Compiled:
    """Compile from no numbers. Without facts there are no rows for the node's own traffic."""
    return compile_snapshot(state, Numbers(), facts)[0]


def plan(result: Compiled) -> list[str]:
    """Return every policy row as a line, sorted.

    "SUBJECT < PEER | what | verdict precedence | rule" is ingress, with > egress; * is ANY_PEER.
    """
    return sorted(_line(result, key, value) for key, value in result.policy.items())


def ingress(result: Compiled) -> list[str]:
    return [line for line in plan(result) if " < " in line]


def egress(result: Compiled) -> list[str]:
    return [line for line in plan(result) if " > " in line]


def who(result: Compiled) -> dict[str, str]:
    """Return the identities map with prefixes as text and identities as people read them."""
    return {
        str(prefix): result.identity_labels[number] for prefix, number in result.identities.items()
    }


def _line(result: Compiled, key: PolicyKey, value: PolicyValue) -> str:
    arrow = "<" if key.direction is Direction.INGRESS else ">"
    peer = "*" if key.peer == ANY_PEER else result.identity_labels[key.peer]
    what = key.protocol.name
    if key.port_bits:
        what += f" {key.port}/{key.port_bits}"
    verdict = f"{value.verdict.name} {value.precedence}"
    subject = result.identity_labels[key.subject]
    return f"{subject} {arrow} {peer} | {what} | {verdict} | {result.rules.get(value.rule, '-')}"


def lines(*text: str) -> list[str]:
    """Return the lines sorted, as `plan` gives them."""
    return sorted(text)


def only(items: Iterable[int]) -> int:
    """Return the one item there is."""
    (item,) = items
    return item
