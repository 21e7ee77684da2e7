"""From a snapshot to the kernel's rows, in the order: labels, blocks, peers, numbers, rows.

`compile_snapshot` is what the package offers. The steps are kept apart so that each subject's
rows follow from the rules that select it and from the peers alone, and can be made alone.
"""

from __future__ import annotations

from collections.abc import Iterator

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
from pyagent.compiler.labels import LabelIndex
from pyagent.compiler.names import every_policy, rule_names
from pyagent.compiler.numbers import Numbers
from pyagent.compiler.rows import Compiled
from pyagent.compiler.subjects import NodeFacts, PolicyRows
from pyagent.config import NodeTraffic
from pyagent.model import Address, Direction, IPBlock, NetworkPolicy, PolicyRule, Snapshot


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
        rules=rule_names(snapshot, node.traffic),
        tenants=snapshot.tenants,
    )
    number = number_peers(in_use | {WORLD_PEER, NODE_PEER}, names, renewed.identities)
    index = PeerIndex({peer: number[peer] for peer in peers})
    compiled = Compiled(
        policy=PolicyRows(snapshot, labels, index, renewed, node).rows(
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
    for policy in every_policy(snapshot):
        if not isinstance(policy, NetworkPolicy) or direction in policy.directions:
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
