"""What policy says of one packet, worked out in the most obvious way from the desired state.

The compiler and the kernel are held against this, by the tests and by `sluice policy verify`. It
shares no code with them: no identities, no numbers, no prefixes, only the sentences of the
Kubernetes API references (networking.k8s.io/v1 NetworkPolicy, policy.networking.k8s.io/v1alpha2
ClusterNetworkPolicy) and of the design, one function each.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pyagent.config import NodeTraffic
from pyagent.model import (
    Action,
    Address,
    ClusterNetworkPolicy,
    Direction,
    Labels,
    LabelSelector,
    NetworkPolicy,
    Operator,
    PolicyPeer,
    PolicyPort,
    PolicyRule,
    Protocol,
    Requirement,
    Snapshot,
    Tier,
    Workload,
)

TCP = 6


@dataclass(frozen=True, slots=True)
class Packet:
    """The first packet of a connection. `protocol` is any IANA number; `port` 0 without ports."""

    source: Address
    destination: Address
    protocol: int
    port: int


@dataclass(frozen=True, slots=True)
class Answer:
    """Each side says ALLOW, DENY, AUDIT or HANDOFF; None where the side is no workload of ours.

    `tenant` is whose proxy gets the connection when `verdict` is HANDOFF.
    """

    egress: str | None
    ingress: str | None
    verdict: str
    tenant: str | None


@dataclass(frozen=True, slots=True)
class Oracle:
    """Answers for one state of the world."""

    snapshot: Snapshot
    node_addresses: frozenset[Address]
    node_traffic: NodeTraffic
    _owners: Mapping[Address, Workload] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        workloads = self.snapshot.workloads.values()
        owners = {address: workload for workload in workloads for address in workload.addresses}
        object.__setattr__(self, "_owners", owners)

    def ask(self, packet: Packet) -> Answer:
        """Say what becomes of the packet."""
        source = self.owner(packet.source)
        destination = self.owner(packet.destination)
        if source is not None and source is destination:
            return Answer(None, None, "ALLOW", None)  # nobody can be kept from himself
        egress = None if source is None else self.egress(source, packet)
        ingress = None if destination is None else self.ingress(destination, packet)
        if "DENY" in (egress, ingress):
            return Answer(egress, ingress, "DENY", None)
        if ingress == "HANDOFF" and destination is not None:
            return Answer(egress, ingress, "HANDOFF", destination.namespace)
        if egress == "HANDOFF" and source is not None:
            return Answer(egress, ingress, "HANDOFF", source.namespace)
        if "AUDIT" in (egress, ingress):
            return Answer(egress, ingress, "AUDIT", None)
        return Answer(egress, ingress, "ALLOW", None)

    def egress(self, source: Workload, packet: Packet) -> str:
        """Say what the source's side says."""
        if not self.policies_allow(source, Direction.EGRESS, packet.destination, packet):
            return self.denial(source)
        if self.is_outside(packet.destination) and self.wants(source, packet):
            return "HANDOFF"
        return "ALLOW"

    def ingress(self, destination: Workload, packet: Packet) -> str:
        """Say what the destination's side says."""
        if self.is_node(packet.source) and self.node_traffic is NodeTraffic.ALLOW:
            return "ALLOW"
        if not self.policies_allow(destination, Direction.INGRESS, packet.source, packet):
            return self.denial(destination)
        return "HANDOFF" if self.wants(destination, packet) else "ALLOW"

    def denial(self, subject: Workload) -> str:
        """Under audit, the workload's own or its namespace's, a denial is only told of."""
        audit = subject.audit or self.snapshot.namespaces[subject.namespace].audit
        return "AUDIT" if audit else "DENY"

    def owner(self, address: Address) -> Workload | None:
        """Return the workload that has the address."""
        return self._owners.get(address)

    def is_node(self, address: Address) -> bool:
        """Say whether the address is the node's."""
        return address in self.node_addresses and self.owner(address) is None

    def is_outside(self, address: Address) -> bool:
        """Say whether the address is neither a workload's nor the node's."""
        return self.owner(address) is None and not self.is_node(address)

    def wants(self, workload: Workload, packet: Packet) -> bool:
        """Say whether the workload's tenant has such packets handed off."""
        tenant = self.snapshot.tenants.get(workload.namespace)
        return tenant is not None and packet.protocol == TCP and packet.port in tenant.http_ports

    def policies_allow(
        self, subject: Workload, direction: Direction, peer: Address, packet: Packet
    ) -> bool:
        """The tiers in order, until one decides; if none does, allowed."""
        action = self.tier_says(Tier.ADMIN, subject, direction, peer, packet)
        if action in (Action.ACCEPT, Action.DENY):
            return action is Action.ACCEPT
        selecting = [
            policy
            for policy in self.snapshot.policies.values()
            if policy.namespace == subject.namespace
            and direction in policy.directions
            and matches(policy.pod_selector, subject.labels)
        ]
        if selecting:  # NetworkPolicy always decides about whom it selects
            return any(
                self.rule_matches(policy, rule, peer, packet)
                for policy in selecting
                for rule in policy.rules(direction)
            )
        return self.tier_says(Tier.BASELINE, subject, direction, peer, packet) is not Action.DENY

    def tier_says(
        self, tier: Tier, subject: Workload, direction: Direction, peer: Address, packet: Packet
    ) -> Action | None:
        """The first matching rule of the policies that select, by priority, and then by name."""
        policies = [
            policy
            for policy in self.snapshot.cluster_policies.values()
            if policy.tier is tier and self.selects(policy, subject)
        ]
        for policy in sorted(policies, key=lambda policy: (policy.priority, policy.name)):
            for rule in policy.rules(direction):
                if self.rule_matches(policy, rule, peer, packet):
                    return rule.action
        return None

    def selects(self, policy: ClusterNetworkPolicy, workload: Workload) -> bool:
        """A subject is a workload that both selectors match."""
        namespace = self.snapshot.namespaces[workload.namespace]
        return matches(policy.namespace_selector, namespace.labels) and matches(
            policy.pod_selector, workload.labels
        )

    def rule_matches(
        self,
        policy: NetworkPolicy | ClusterNetworkPolicy,
        rule: PolicyRule,
        peer: Address,
        packet: Packet,
    ) -> bool:
        """A rule is about what matches one of its peers (if any) and one of its ports (if any)."""
        peer_fits = not rule.peers or any(
            self.peer_matches(policy, entry, peer) for entry in rule.peers
        )
        port_fits = not rule.ports or any(self.port_matches(entry, packet) for entry in rule.ports)
        return peer_fits and port_fits

    def peer_matches(
        self, policy: NetworkPolicy | ClusterNetworkPolicy, entry: PolicyPeer, peer: Address
    ) -> bool:
        """An ipBlock looks at the address, whoever owns it; selectors look at workloads only."""
        if entry.ip_block is not None:
            return peer in entry.ip_block.cidr and not any(
                peer in network for network in entry.ip_block.excepts
            )
        workload = self.owner(peer)
        if workload is None or (entry.pod_selector is None and entry.namespace_selector is None):
            return False
        if entry.namespace_selector is None:
            namespace_fits = (
                isinstance(policy, NetworkPolicy) and workload.namespace == policy.namespace
            )
        else:
            labels = self.snapshot.namespaces[workload.namespace].labels
            namespace_fits = matches(entry.namespace_selector, labels)
        pod_fits = entry.pod_selector is None or matches(entry.pod_selector, workload.labels)
        return namespace_fits and pod_fits

    def port_matches(self, entry: PolicyPort, packet: Packet) -> bool:
        """A named port is whatever the destination calls so."""
        if entry.protocol not in (Protocol.ANY, packet.protocol):
            return False
        if entry.port is None:
            return True
        if isinstance(entry.port, str):
            destination = self.owner(packet.destination)
            return destination is not None and any(
                (port.name, port.port, port.protocol) == (entry.port, packet.port, packet.protocol)
                for port in destination.ports
            )
        return entry.port <= packet.port <= (entry.end_port or entry.port)


def matches(selector: LabelSelector, labels: Labels) -> bool:
    """A label selector matches if every entry does; an empty one always."""
    return all(labels.get(key) == value for key, value in selector.match_labels.items()) and all(
        requirement_matches(requirement, labels) for requirement in selector.match_expressions
    )


def requirement_matches(requirement: Requirement, labels: Labels) -> bool:
    """NotIn also matches what lacks the key."""
    if requirement.operator is Operator.EXISTS:
        return requirement.key in labels
    if requirement.operator is Operator.DOES_NOT_EXIST:
        return requirement.key not in labels
    listed = requirement.key in labels and labels[requirement.key] in requirement.values
    return listed if requirement.operator is Operator.IN else not listed
