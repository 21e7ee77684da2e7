"""The policy rows of every subject: which rules select it, and what they come to.

Subjects that agree in what makes their rows share them. Used by `compile`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from pyagent.compiler.blocks import block_text
from pyagent.compiler.identities import PeerIndex
from pyagent.compiler.labels import LabelIndex, LabelSet
from pyagent.compiler.names import (
    DEFAULT_RULE,
    NODE_RULE,
    default_deny_name,
    handoff_name,
    rule_name,
)
from pyagent.compiler.numbers import Numbers
from pyagent.compiler.rows import PolicyKey, PolicyValue
from pyagent.compiler.tables import (
    Group,
    Rule,
    Side,
    audit,
    hand_off_egress,
    hand_off_ingress,
    trust_node,
)
from pyagent.compiler.tiers import Tiers, judge
from pyagent.config import NodeTraffic
from pyagent.model import (
    Address,
    ClusterNetworkPolicy,
    ClusterRule,
    Direction,
    NetworkPolicy,
    PolicyPeer,
    PolicyRule,
    Snapshot,
    Tier,
)


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """What the compiler must know of the node: its addresses, and how its own traffic is judged."""

    addresses: frozenset[Address]
    traffic: NodeTraffic


@dataclass(slots=True)
class _Selecting:
    """The rules that select one label set in one direction, as they are found."""

    admin: list[Rule] = field(default_factory=list)
    policies: list[Rule] | None = None
    baseline: list[Rule] = field(default_factory=list)

    def tiers(self, default: Rule) -> Tiers:
        """Return them frozen."""
        policies = None if self.policies is None else tuple(self.policies)
        return Tiers(tuple(self.admin), policies, tuple(self.baseline), default)


class PolicyRows:
    """The policy rows of one snapshot."""

    def __init__(
        self,
        snapshot: Snapshot,
        labels: LabelIndex,
        peers: PeerIndex,
        numbers: Numbers,
        node: NodeFacts,
    ) -> None:
        self._labels = labels
        self._peers = peers
        self._rules = numbers.rules
        self._trust_node = node.traffic is NodeTraffic.ALLOW
        self._workloads: dict[int, LabelSet] = {
            number: labels.sets[owner] for number, owner in peers.owner.items()
        }
        self._handoffs: dict[str, dict[int, int]] = {
            name: {port: self._rules[handoff_name(name, port)] for port in tenant.http_ports}
            for name, tenant in snapshot.tenants.items()
        }
        self._selecting: dict[tuple[int, Direction], _Selecting] = {}
        for _, policy in sorted(snapshot.policies.items()):
            self._select(policy)
        for cluster_policy in in_order(snapshot):
            self._select_cluster(cluster_policy)

    def _select(self, policy: NetworkPolicy) -> None:
        """Enter a policy's rules with every label set that it selects."""
        selected = list(self._labels.subjects(policy.namespace, policy.pod_selector))
        if not selected:
            return
        for direction in policy.directions:
            rules = self._find(policy, direction)
            for owner in selected:
                entry = self._selecting.setdefault((owner, direction), _Selecting())
                entry.policies = [*(entry.policies or ()), *rules]

    def _select_cluster(self, policy: ClusterNetworkPolicy) -> None:
        subject = PolicyPeer(policy.pod_selector, policy.namespace_selector)
        selected = list(self._labels.peers("", subject))
        if not selected:
            return
        for direction in Direction:
            rules = self._find(policy, direction)
            for owner in selected:
                entry = self._selecting.setdefault((owner, direction), _Selecting())
                (entry.admin if policy.tier is Tier.ADMIN else entry.baseline).extend(rules)

    def _find(
        self, policy: NetworkPolicy | ClusterNetworkPolicy, direction: Direction
    ) -> list[Rule]:
        """Return a policy's rules of one direction with their numbers and peers."""
        namespace = policy.namespace if isinstance(policy, NetworkPolicy) else ""
        found = []
        for position, rule in enumerate(policy.rules(direction)):
            number = self._rules[rule_name(policy, direction, position)]
            peers = self._find_peers(namespace, rule)
            if isinstance(rule, ClusterRule):
                found.append(Rule(number, peers, rule.ports, rule.action))
            else:
                found.append(Rule(number, peers, rule.ports))
        return found

    def _find_peers(self, namespace: str, rule: PolicyRule) -> frozenset[int] | None:
        if not rule.peers:
            return None
        found: set[int] = set()
        for peer in rule.peers:
            if peer.ip_block is not None:
                found |= self._peers.in_block(block_text(peer.ip_block))
            else:
                found |= self._peers.of_label_sets(self._labels.peers(namespace, peer))
        return frozenset(found)

    def rows(self, subjects: list[int]) -> dict[PolicyKey, PolicyValue]:
        """Return every row; `subjects` has the identity of each label set."""
        default = Rule(self._rules[DEFAULT_RULE], None, ())
        shared: dict[object, dict[int, Group]] = {}
        rows: dict[PolicyKey, PolicyValue] = {}
        for owner, identity in enumerate(subjects):
            label_set = self._labels.sets[owner]
            for direction in Direction:
                selecting = self._selecting.get((owner, direction), _Selecting())
                tiers = selecting.tiers(default)
                alike = (
                    direction,
                    tiers,
                    label_set.namespace,
                    label_set.ports,
                    label_set.audit,
                )
                groups = shared.get(alike)
                if groups is None:
                    shared[alike] = groups = self._groups(direction, tiers, label_set)
                for peer, group in groups.items():
                    for block, value in group.items():
                        rows[PolicyKey(identity, peer, direction, *block)] = value
        return rows

    def _groups(self, direction: Direction, tiers: Tiers, subject: LabelSet) -> dict[int, Group]:
        """Return one subject's settled rows of one direction, by peer."""
        groups = judge(tiers, Side(direction, subject.ports, self._workloads))
        if subject.audit:
            rule = self._rules[default_deny_name(subject.namespace)]
            audit(groups, rule, tiers.policies is not None)
        handoffs = self._handoffs.get(subject.namespace, {})
        if direction is Direction.EGRESS:
            hand_off_egress(groups, handoffs, self._peers.outside)
            return groups
        hand_off_ingress(groups, handoffs)
        if self._trust_node:
            trust_node(groups, self._peers.node, self._rules[NODE_RULE])
        return groups


def in_order(snapshot: Snapshot) -> list[ClusterNetworkPolicy]:
    """Return the cluster's policies, the first to be asked first.

    The API leaves open which of two with one priority is first: here it is the one whose name is.
    """
    return sorted(
        snapshot.cluster_policies.values(), key=lambda policy: (policy.priority, policy.name)
    )
