"""From a snapshot to the kernel's rows, in the order: labels, blocks, peers, numbers, rows.

`compile_snapshot` is what the package offers. The steps are kept apart so that each subject's
rows follow from the rules that select it and from the peers alone, and can be made alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pyagent.compiler.blocks import BlockIndex, Blocks, block_text
from pyagent.compiler.identities import (
    NODE_PEER,
    WORLD_PEER,
    IdentityNames,
    Peer,
    PeerIndex,
    number_peers,
    peers_by_prefix,
)
from pyagent.compiler.labels import LabelIndex, LabelSet
from pyagent.compiler.numbers import Numbers
from pyagent.compiler.rows import Compiled, PolicyKey, PolicyValue
from pyagent.compiler.tables import (
    Allow,
    Group,
    gather,
    hand_off_egress,
    hand_off_ingress,
    settle_all,
    trust_node,
)
from pyagent.config import NodeTraffic
from pyagent.model import Address, Direction, IPBlock, NetworkPolicy, PolicyRule, Snapshot

DEFAULT_RULE = "default: no policy selects"
NODE_RULE = "node"


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """What the compiler must know of the node: its addresses, and how its own traffic is judged."""

    addresses: frozenset[Address]
    traffic: NodeTraffic


def compile_snapshot(
    snapshot: Snapshot, numbers: Numbers, node: NodeFacts
) -> tuple[Compiled, Numbers]:
    """Compile a valid snapshot; `numbers` are those of the revision that the kernel holds.

    Returns the rows and the numbers they use. The result depends on the arguments only, not on
    the order of any mapping in them.
    """
    labels = LabelIndex(snapshot, _port_names(snapshot))
    blocks = BlockIndex(block for way in Direction for block in _ip_blocks(snapshot, way))
    peer_at = peers_by_prefix(snapshot, labels, blocks, _node_blocks(snapshot, blocks, node))
    subjects = [Peer(owner, frozenset()) for owner in range(len(labels.sets))]
    peers = set(peer_at.values())
    in_use = peers.union(subjects)

    names = IdentityNames(labels.sets)
    renewed = numbers.renew(
        identities=(names.canonical(peer) for peer in in_use - {WORLD_PEER, NODE_PEER}),
        rules=_rule_names(snapshot, node.traffic),
        tenants=snapshot.tenants,
    )
    number = number_peers(in_use | {WORLD_PEER, NODE_PEER}, names, renewed.identities)
    index = PeerIndex({peer: number[peer] for peer in peers})
    compiled = Compiled(
        policy=_PolicyRows(snapshot, labels, index, renewed, node).rows(
            [number[subject] for subject in subjects]
        ),
        identities={prefix: number[peer] for prefix, peer in peer_at.items()},
        workload_identity={
            key: number[subjects[owner]] for key, owner in labels.of_workload.items()
        },
        workload_tenant={
            key: renewed.tenants.get(workload.namespace, 0)
            for key, workload in snapshot.workloads.items()
        },
        identity_labels={number[peer]: names.readable(peer) for peer in number},
        rules={number: name for name, number in renewed.rules.items()},
        tenants=dict(renewed.tenants),
    )
    return compiled, renewed


class _PolicyRows:
    """The policy rows of one snapshot; subjects that agree in what makes their rows share them."""

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
        self._peer_sets: dict[int, LabelSet] = {
            number: labels.sets[owner] for number, owner in peers.owner.items()
        }
        self._handoffs: dict[str, dict[int, int]] = {
            name: {port: self._rules[_handoff_name(name, port)] for port in tenant.http_ports}
            for name, tenant in snapshot.tenants.items()
        }
        self._allows: dict[tuple[int, Direction], list[Allow]] = {}
        for _, policy in sorted(snapshot.policies.items()):
            self._select(policy)

    def _select(self, policy: NetworkPolicy) -> None:
        """Enter a policy's rules with every label set that it selects."""
        selected = list(self._labels.subjects(policy.namespace, policy.pod_selector))
        if not selected:
            return
        for direction in policy.directions:
            allows = [
                Allow(
                    self._rules[_rule_name(policy, direction, position)],
                    self._find_peers(policy.namespace, rule),
                    rule.ports,
                )
                for position, rule in enumerate(policy.rules(direction))
            ]
            for owner in selected:
                self._allows.setdefault((owner, direction), []).extend(allows)

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
        everybody = [Allow(self._rules[DEFAULT_RULE], None, ())]
        shared: dict[tuple[object, ...], dict[int, Group]] = {}
        rows: dict[PolicyKey, PolicyValue] = {}
        for owner, identity in enumerate(subjects):
            label_set = self._labels.sets[owner]
            for direction in Direction:
                allows = self._allows.get((owner, direction), everybody)
                rules = tuple(allow.rule for allow in allows)
                alike = (direction, rules, label_set.namespace, label_set.ports)
                groups = shared.get(alike)
                if groups is None:
                    shared[alike] = groups = self._groups(direction, allows, label_set)
                for peer, group in groups.items():
                    for block, value in group.items():
                        rows[PolicyKey(identity, peer, direction, *block)] = value
        return rows

    def _groups(
        self, direction: Direction, allows: list[Allow], subject: LabelSet
    ) -> dict[int, Group]:
        """Return one subject's settled rows of one direction, by peer."""
        groups = settle_all(gather(direction, allows, subject.ports, self._peer_sets))
        handoffs = self._handoffs.get(subject.namespace, {})
        if direction is Direction.EGRESS:
            hand_off_egress(groups, handoffs, self._peers.outside)
            return groups
        hand_off_ingress(groups, handoffs)
        if self._trust_node:
            trust_node(groups, self._peers.node, self._rules[NODE_RULE])
        return groups


def _node_blocks(snapshot: Snapshot, blocks: BlockIndex, node: NodeFacts) -> dict[Address, Blocks]:
    """Return which ipBlocks count for each address of the node.

    Where all the node sends is allowed, only those of egress do, so that the node stays one
    identity unless a policy sets one of its addresses apart.
    """
    if node.traffic is NodeTraffic.POLICY:
        return {address: blocks.at(address) for address in node.addresses}
    egress = {block_text(block) for block in _ip_blocks(snapshot, Direction.EGRESS)}
    return {address: blocks.at(address) & egress for address in node.addresses}


def _rules(snapshot: Snapshot, direction: Direction) -> Iterator[PolicyRule]:
    """Give the rules that are in force in one direction: `policyTypes` may leave some out."""
    for policy in snapshot.policies.values():
        if direction in policy.directions:
            yield from policy.rules(direction)


def _ip_blocks(snapshot: Snapshot, direction: Direction) -> Iterator[IPBlock]:
    for rule in _rules(snapshot, direction):
        for peer in rule.peers:
            if peer.ip_block is not None:
                yield peer.ip_block


def _port_names(snapshot: Snapshot) -> frozenset[str]:
    return frozenset(
        entry.port
        for direction in Direction
        for rule in _rules(snapshot, direction)
        for entry in rule.ports
        if isinstance(entry.port, str)
    )


def _rule_names(snapshot: Snapshot, traffic: NodeTraffic) -> Iterator[str]:
    yield DEFAULT_RULE
    if traffic is NodeTraffic.ALLOW:
        yield NODE_RULE
    for name, tenant in snapshot.tenants.items():
        for port in tenant.http_ports:
            yield _handoff_name(name, port)
    for policy in snapshot.policies.values():
        for direction in policy.directions:
            for position in range(len(policy.rules(direction))):
                yield _rule_name(policy, direction, position)


def _rule_name(policy: NetworkPolicy, direction: Direction, position: int) -> str:
    return f"{policy.namespace}/{policy.name} {direction.name.lower()}[{position}]"


def _handoff_name(tenant: str, port: int) -> str:
    return f"tenant {tenant} http {port}"
