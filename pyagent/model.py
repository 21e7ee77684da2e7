"""The desired state as plain values: what the manifests say once they have been checked.

Sources make these, the compiler reads them; nothing here knows YAML, netlink or the kernel.
All values are immutable: mappings are never changed after construction.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, IntEnum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network
Labels = Mapping[str, str]


class Direction(IntEnum):
    """Traffic's direction as a workload sees it; the numbers are those of `bpf/abi.h`."""

    INGRESS = 0
    EGRESS = 1


class Protocol(IntEnum):
    """Transport protocols a policy can name, by IANA number; ANY matches every protocol."""

    ANY = 0
    TCP = 6
    UDP = 17
    SCTP = 132


class FailureMode(Enum):
    """What becomes of a connection that should be handed off while the proxy is not ready."""

    CLOSED = "closed"
    OPEN = "open"


class Placement(Enum):
    """How many proxies a tenant gets."""

    TENANT = "tenant"
    WORKLOAD = "workload"
    NODE = "node"


@dataclass(frozen=True, slots=True)
class Origin:
    """The document an object was read from; `document` counts from 1."""

    file: str
    document: int


@dataclass(frozen=True, slots=True)
class Namespace:
    """`v1 Namespace`. `labels` holds `kubernetes.io/metadata.name`, as Kubernetes sets it."""

    name: str
    labels: Labels
    origin: Origin
    audit: bool = False  # what policy denies its workloads passes, and is told of


@dataclass(frozen=True, slots=True)
class NamedPort:
    """One entry of `Workload.spec.ports`, which policies may refer to by name."""

    name: str
    port: int
    protocol: Protocol


@dataclass(frozen=True, slots=True)
class Workload:
    """`sluice.dev/v1alpha1 Workload`: one network namespace behind one node-side interface.

    Exactly one of `interface` (node side, already there) and `netns` (a path; Sluice makes the
    veth pair, addresses and routes) is set. `audit` is the workload's own; its namespace's counts
    as well.
    """

    namespace: str
    name: str
    labels: Labels
    addresses: tuple[Address, ...]
    ports: tuple[NamedPort, ...]
    interface: str | None
    netns: str | None
    origin: Origin
    audit: bool = False

    @property
    def key(self) -> str:
        """`namespace/name`, the workload's name everywhere a person reads or types it."""
        return f"{self.namespace}/{self.name}"


class Operator(Enum):
    """Operators of a label selector requirement."""

    IN = "In"
    NOT_IN = "NotIn"
    EXISTS = "Exists"
    DOES_NOT_EXIST = "DoesNotExist"


@dataclass(frozen=True, slots=True)
class Requirement:
    """One entry of `matchExpressions`."""

    key: str
    operator: Operator
    values: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class LabelSelector:
    """Kubernetes `metav1.LabelSelector`; an empty one matches everything."""

    match_labels: Labels = field(default_factory=dict)
    match_expressions: tuple[Requirement, ...] = ()


@dataclass(frozen=True, slots=True)
class IPBlock:
    """Addresses inside `cidr` and inside none of `excepts`."""

    cidr: Network
    excepts: tuple[Network, ...] = ()


@dataclass(frozen=True, slots=True)
class PolicyPeer:
    """One entry of `from` or `to`: either `ip_block`, or selectors.

    With `pod_selector` alone the peer is in the policy's own namespace; with
    `namespace_selector` alone it is every workload of the chosen namespaces.
    """

    pod_selector: LabelSelector | None = None
    namespace_selector: LabelSelector | None = None
    ip_block: IPBlock | None = None


@dataclass(frozen=True, slots=True)
class PolicyPort:
    """One entry of `ports`: all ports of a protocol (`port` None), one, a range, or a named one."""

    protocol: Protocol
    port: int | str | None = None
    end_port: int | None = None


class Tier(Enum):
    """Where a ClusterNetworkPolicy stands: above or below NetworkPolicy."""

    ADMIN = "Admin"
    BASELINE = "Baseline"


class Action(Enum):
    """What a rule of a ClusterNetworkPolicy does; PASS leaves its tier."""

    ACCEPT = "Accept"
    DENY = "Deny"
    PASS = "Pass"


@dataclass(frozen=True, slots=True)
class PolicyRule:
    """One ingress or egress rule. No peers means every peer; no ports means every port."""

    peers: tuple[PolicyPeer, ...] = ()
    ports: tuple[PolicyPort, ...] = ()


@dataclass(frozen=True, slots=True)
class NetworkPolicy:
    """`networking.k8s.io/v1 NetworkPolicy`; `directions` is policyTypes with defaults applied."""

    namespace: str
    name: str
    pod_selector: LabelSelector
    directions: frozenset[Direction]
    ingress: tuple[PolicyRule, ...]
    egress: tuple[PolicyRule, ...]
    origin: Origin

    def rules(self, direction: Direction) -> tuple[PolicyRule, ...]:
        """The rules of one direction, in the manifest's order."""
        return self.ingress if direction is Direction.INGRESS else self.egress


@dataclass(frozen=True, slots=True)
class ClusterRule(PolicyRule):
    """One ingress or egress rule of a ClusterNetworkPolicy; it has at least one peer.

    A port that is given by name has protocol ANY: it is the destination's port of that name.
    """

    action: Action = Action.ACCEPT
    name: str = ""


@dataclass(frozen=True, slots=True)
class ClusterNetworkPolicy:
    """`policy.networking.k8s.io/v1alpha2 ClusterNetworkPolicy`.

    Its subjects are the workloads that `pod_selector` matches in the namespaces that
    `namespace_selector` matches.
    """

    name: str
    tier: Tier
    priority: int  # 0 to 1000, the lowest is asked first
    namespace_selector: LabelSelector
    pod_selector: LabelSelector
    ingress: tuple[ClusterRule, ...]
    egress: tuple[ClusterRule, ...]
    origin: Origin

    def rules(self, direction: Direction) -> tuple[ClusterRule, ...]:
        """The rules of one direction, in the manifest's order; the first that matches decides."""
        return self.ingress if direction is Direction.INGRESS else self.egress


@dataclass(frozen=True, slots=True)
class Tenant:
    """`sluice.dev/v1alpha1 Tenant`: how a namespace's proxy is placed and what goes to it."""

    name: str
    placement: Placement
    failure_mode: FailureMode
    http_ports: frozenset[int]
    origin: Origin


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything a source says at one moment, complete and consistent.

    A namespace that a workload, policy or tenant names without a Namespace document is present
    with Kubernetes' default label alone. Every mapping is keyed by name, `namespace/name` for
    what lives in a namespace.
    """

    namespaces: Mapping[str, Namespace]
    workloads: Mapping[str, Workload]
    policies: Mapping[str, NetworkPolicy]
    tenants: Mapping[str, Tenant]
    cluster_policies: Mapping[str, ClusterNetworkPolicy] = field(default_factory=dict)
