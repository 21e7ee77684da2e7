"""Hypothesis strategies: small clusters, dense enough that their policies meet, and packets.

Names, labels, prefixes and ports come from small pools, so that rules overlap, nest and shadow
each other. Excepts and ipBlocks include addresses of workloads and of the node.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from hypothesis import strategies as st

from pyagent.compiler import every_policy
from pyagent.config import NodeTraffic
from pyagent.model import (
    Action,
    Address,
    ClusterNetworkPolicy,
    ClusterRule,
    Direction,
    FailureMode,
    IPBlock,
    LabelSelector,
    NamedPort,
    Namespace,
    Network,
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
from pyagent.oracle import Packet

ORIGIN = Origin("cluster.yaml", 1)
NAMESPACES = ("shop", "bank", "lab")
CHOSEN_NAMESPACE = st.sampled_from(("shop", "shop", "shop", "bank", "bank", "lab"))
NODE: frozenset[Address] = frozenset({IPv4Address("10.0.0.1"), IPv6Address("fd00::1")})
# Workload i has 10.0.0.(2+i), fd00::(2+i), or both.
FAMILIES = ((4,), (6,), (4, 6))
PREFIXES: tuple[Network, ...] = tuple(
    ip_network(text)
    for text in (
        "0.0.0.0/0",
        "10.0.0.0/8",
        "10.0.0.0/29",
        "10.0.0.0/30",
        "10.0.0.4/31",
        "10.0.0.1/32",
        "10.0.0.3/32",
        "192.0.2.0/24",
        "192.0.2.128/25",
        "::/0",
        "fd00::/8",
        "fd00::/125",
        "fd00::4/127",
        "fd00::1/128",
        "fd00::3/128",
        "2001:db8::/32",
    )
)
OUTSIDE: tuple[Address, ...] = tuple(
    ip_address(text)
    for text in (
        "10.0.0.0",
        "10.0.0.7",
        "10.0.0.8",
        "10.9.9.9",
        "192.0.2.1",
        "192.0.2.129",
        "203.0.113.7",
        "fd00::7",
        "fd00::8",
        "2001:db8::1",
        "2606::1",
    )
)
PORTS = (1, 79, 80, 81, 443, 8079, 8080, 8083, 65534, 65535)
PORT_NAMES = ("http", "metrics")
PROTOCOLS = (Protocol.TCP, Protocol.UDP, Protocol.SCTP)
ICMP = {4: 1, 6: 58}


@dataclass(frozen=True, slots=True)
class Cluster:
    """What the compiler and the oracle are given."""

    snapshot: Snapshot
    node_addresses: frozenset[Address]
    node_traffic: NodeTraffic


def _subset(pool: Mapping[str, tuple[str, ...]]) -> st.SearchStrategy[dict[str, str]]:
    optional = {key: st.sampled_from(values) for key, values in pool.items()}
    return st.fixed_dictionaries({}, optional=optional)


LABELS = {"app": ("web", "db"), "tier": ("front", "back")}
NAMESPACE_LABELS = {"team": ("red", "blue"), "env": ("prod",)}


def selectors(pool: Mapping[str, tuple[str, ...]]) -> st.SearchStrategy[LabelSelector]:
    """Draw label selectors over a pool of labels, empty ones and all operators included."""
    values = sorted({value for values in pool.values() for value in values})
    keys = st.sampled_from([*pool, "absent"])
    listing = st.builds(
        Requirement,
        keys,
        st.sampled_from([Operator.IN, Operator.NOT_IN]),
        st.lists(st.sampled_from(values), min_size=1, max_size=2, unique=True).map(tuple),
    )
    presence = st.builds(
        Requirement, keys, st.sampled_from([Operator.EXISTS, Operator.DOES_NOT_EXIST])
    )
    expressions = st.lists(st.one_of(listing, presence), max_size=2).map(tuple)
    return st.one_of(
        st.just(LabelSelector()),
        st.builds(LabelSelector, _subset(pool)),
        st.builds(LabelSelector, st.just({}), expressions),
        st.builds(LabelSelector, _subset(pool), expressions),
    )


def _inside(cidr: Network) -> list[Network]:
    return [
        prefix
        for prefix in PREFIXES
        if prefix.version == cidr.version
        and prefix.prefixlen > cidr.prefixlen
        and prefix.network_address in cidr
    ]


@st.composite
def ip_blocks(draw: st.DrawFn) -> IPBlock:
    """Draw ipBlocks whose excepts lie strictly inside their cidr."""
    cidr = draw(st.sampled_from(PREFIXES))
    inside = _inside(cidr)
    excepts = st.lists(st.sampled_from(inside), max_size=2) if inside else st.just([])
    return IPBlock(cidr, tuple(draw(excepts)))


def peers() -> st.SearchStrategy[PolicyPeer]:
    """Draw peers of all four forms."""
    pods, namespaces = selectors(LABELS), selectors(NAMESPACE_LABELS)
    return st.one_of(
        st.builds(PolicyPeer, pod_selector=pods),
        st.builds(PolicyPeer, namespace_selector=namespaces),
        st.builds(PolicyPeer, pod_selector=pods, namespace_selector=namespaces),
        st.builds(PolicyPeer, ip_block=ip_blocks()),
    )


@st.composite
def policy_ports(draw: st.DrawFn) -> PolicyPort:
    """Draw ports: all of a protocol, one, a range, a named one."""
    protocol = draw(st.sampled_from((Protocol.TCP, *PROTOCOLS)))
    form = draw(st.sampled_from(["all", "one", "range", "named"]))
    if form == "named":
        return PolicyPort(protocol, draw(st.sampled_from(PORT_NAMES)))
    if form == "all":
        return PolicyPort(protocol)
    first = draw(st.sampled_from(PORTS))
    if form == "one":
        return PolicyPort(protocol, first)
    return PolicyPort(protocol, first, draw(st.sampled_from([p for p in PORTS if p >= first])))


RULES = st.lists(
    st.builds(
        PolicyRule,
        st.lists(peers(), max_size=3).map(tuple),
        st.lists(policy_ports(), max_size=3).map(tuple),
    ),
    max_size=3,
).map(tuple)
DIRECTIONS = st.sampled_from(
    [
        frozenset({Direction.INGRESS}),
        frozenset({Direction.EGRESS}),
        frozenset(Direction),
    ]
)


@st.composite
def policies(draw: st.DrawFn, name: str) -> NetworkPolicy:
    """Draw a policy; it may have rules of a direction that its policyTypes leave out."""
    return NetworkPolicy(
        namespace=draw(CHOSEN_NAMESPACE),
        name=name,
        pod_selector=draw(selectors(LABELS)),
        directions=draw(DIRECTIONS),
        ingress=draw(RULES),
        egress=draw(RULES),
        origin=ORIGIN,
    )


CLUSTER_PEERS = st.one_of(
    st.builds(PolicyPeer, namespace_selector=selectors(NAMESPACE_LABELS)),
    st.builds(
        PolicyPeer, pod_selector=selectors(LABELS), namespace_selector=selectors(NAMESPACE_LABELS)
    ),
)
NETWORKS = st.sampled_from(PREFIXES).map(lambda cidr: PolicyPeer(ip_block=IPBlock(cidr)))
ANY_NAMED = st.sampled_from(PORT_NAMES).map(lambda name: PolicyPort(Protocol.ANY, name))
NUMBERED_PORTS = policy_ports().filter(lambda entry: isinstance(entry.port, int))


@st.composite
def cluster_rules(draw: st.DrawFn, direction: Direction) -> tuple[ClusterRule, ...]:
    """Draw ordered rules; only egress has networks, and those no named ports."""
    rules = []
    for _ in range(draw(st.integers(0, 3))):
        networks = direction is Direction.EGRESS and draw(st.booleans())
        peer = st.one_of(CLUSTER_PEERS, NETWORKS) if networks else CLUSTER_PEERS
        port = NUMBERED_PORTS if networks else st.one_of(NUMBERED_PORTS, ANY_NAMED)
        rules.append(
            ClusterRule(
                tuple(draw(st.lists(peer, min_size=1, max_size=2))),
                tuple(draw(st.lists(port, max_size=2))),
                draw(st.sampled_from(Action)),
            )
        )
    return tuple(rules)


@st.composite
def cluster_policies(draw: st.DrawFn, name: str) -> ClusterNetworkPolicy:
    """Draw a policy of either tier; priorities often tie."""
    return ClusterNetworkPolicy(
        name=name,
        tier=draw(st.sampled_from(Tier)),
        priority=draw(st.sampled_from((0, 10, 10, 1000))),
        namespace_selector=draw(selectors(NAMESPACE_LABELS)),
        pod_selector=draw(selectors(LABELS)),
        ingress=draw(cluster_rules(Direction.INGRESS)),
        egress=draw(cluster_rules(Direction.EGRESS)),
        origin=ORIGIN,
    )


RARELY = st.sampled_from((False, False, False, True))
NAMED_PORTS = st.lists(
    st.builds(
        NamedPort,
        st.sampled_from(PORT_NAMES),
        st.sampled_from(PORTS),
        st.sampled_from(PROTOCOLS),
    ),
    max_size=3,
    unique_by=lambda port: (port.name, port.protocol),
).map(tuple)


@st.composite
def workloads(draw: st.DrawFn, number: int) -> Workload:
    """Draw workload `number`, whose addresses follow from the number."""
    families = draw(st.sampled_from(FAMILIES))
    pool: dict[int, Address] = {
        4: IPv4Address(f"10.0.0.{2 + number}"),
        6: IPv6Address(f"fd00::{2 + number:x}"),
    }
    return Workload(
        namespace=draw(CHOSEN_NAMESPACE),
        name=f"w{number}",
        labels=draw(_subset(LABELS)),
        addresses=tuple(pool[family] for family in families),
        ports=draw(NAMED_PORTS),
        interface=f"veth{number}",
        netns=None,
        origin=ORIGIN,
        audit=draw(RARELY),
    )


@st.composite
def snapshots(draw: st.DrawFn) -> Snapshot:
    """Draw a consistent snapshot of two to five workloads and up to six policies of each kind."""
    namespaces = {}
    for name in NAMESPACES:
        labels = {"kubernetes.io/metadata.name": name, **draw(_subset(NAMESPACE_LABELS))}
        namespaces[name] = Namespace(name, labels, ORIGIN, draw(RARELY))
    found = [draw(workloads(i)) for i in range(draw(st.integers(2, 5)))]
    chosen = [draw(policies(f"p{i}")) for i in range(draw(st.integers(0, 6)))]
    above = [draw(cluster_policies(f"c{i}")) for i in range(draw(st.integers(0, 4)))]
    tenants = {
        name: Tenant(
            name,
            Placement.TENANT,
            FailureMode.CLOSED,
            draw(st.frozensets(st.sampled_from(PORTS), min_size=1, max_size=3)),
            ORIGIN,
        )
        for name in draw(st.frozensets(st.sampled_from(NAMESPACES)))
    }
    return Snapshot(
        namespaces=namespaces,
        workloads={workload.key: workload for workload in found},
        policies={f"{policy.namespace}/{policy.name}": policy for policy in chosen},
        tenants=tenants,
        cluster_policies={policy.name: policy for policy in above},
    )


def clusters() -> st.SearchStrategy[Cluster]:
    """Draw a snapshot with the facts of its node."""
    return st.builds(
        Cluster,
        snapshots(),
        st.just(NODE),
        st.sampled_from(NodeTraffic),
    )


def questions(cluster: Cluster) -> list[tuple[int, int]]:
    """Return every protocol and port at which a verdict of this cluster can change.

    That is each port named anywhere and its neighbours, for each protocol, and protocols without
    ports.
    """
    ports = {port for tenant in cluster.snapshot.tenants.values() for port in tenant.http_ports}
    for workload in cluster.snapshot.workloads.values():
        ports |= {port.port for port in workload.ports}
    for policy in every_policy(cluster.snapshot):
        for rule in (*policy.ingress, *policy.egress):
            for entry in rule.ports:
                ports |= {p for p in (entry.port, entry.end_port) if isinstance(p, int)}
    near = {port + step for port in ports | {1000} for step in (-1, 0, 1)}
    asked = sorted(near & set(range(65536)))
    return [(int(protocol), port) for protocol in PROTOCOLS for port in asked]


def ends(cluster: Cluster) -> list[tuple[Address, Address]]:
    """Return every source and destination of one family with a workload at one end at least."""
    local = [a for w in cluster.snapshot.workloads.values() for a in w.addresses]
    others = [*sorted(cluster.node_addresses, key=str), *OUTSIDE]
    return [
        (source, destination)
        for source in (*local, *others)
        for destination in (*local, *others)
        if source.version == destination.version and (source in local or destination in local)
    ]


@st.composite
def packets(draw: st.DrawFn, cluster: Cluster) -> Packet:
    """Draw one packet that the cluster's policies may have something to say about."""
    source, destination = draw(st.sampled_from(ends(cluster)))
    icmp = (ICMP[source.version], 0)
    protocol, port = draw(st.sampled_from([*questions(cluster), icmp]))
    return Packet(source, destination, protocol, port)


def every_packet(cluster: Cluster) -> Iterator[Packet]:
    """Give every packet that `packets` can draw."""
    asked = questions(cluster)
    for source, destination in ends(cluster):
        for protocol, port in (*asked, (ICMP[source.version], 0)):
            yield Packet(source, destination, protocol, port)
