"""Identities: what stands for whom, and which address belongs to which.

A workload has two kinds. As a *subject*, whom policies select, it is one number per label set. As
a *peer* it is a number per address: a label set together with the ipBlocks that contain the
address, because an ipBlock matches an address whoever owns it. Where no ipBlock in use contains
the address, both are the same number. Used by `compile`; `tables` sees peers through `PeerIndex`.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from ipaddress import IPv4Address, IPv4Network, IPv6Network
from typing import NamedTuple

from pyagent.compiler.blocks import BlockIndex, Blocks
from pyagent.compiler.labels import LabelIndex, LabelSet
from pyagent.compiler.rows import IDENTITY_NODE, IDENTITY_WORLD
from pyagent.model import Address, Network, Snapshot

OUTSIDE = -1
NODE = -2


class Peer(NamedTuple):
    """What policy can tell of an address."""

    owner: int  # position of a label set in the LabelIndex, or OUTSIDE or NODE
    blocks: Blocks


WORLD_PEER = Peer(OUTSIDE, frozenset())
NODE_PEER = Peer(NODE, frozenset())


def peers_by_prefix(
    snapshot: Snapshot, labels: LabelIndex, blocks: BlockIndex, node: Mapping[Address, Blocks]
) -> dict[Network, Peer]:
    """Return the peer at every prefix: regions of ipBlocks, the node, workloads.

    `node` gives the node's addresses, each with the ipBlocks that count for it.
    """
    peers: dict[Network, Peer] = {
        prefix: Peer(OUTSIDE, inside) for prefix, inside in blocks.regions.items()
    }
    for address, inside in node.items():
        peers[_host(address)] = Peer(NODE, inside)
    for key, owner in labels.of_workload.items():
        for address in snapshot.workloads[key].addresses:
            peers[_host(address)] = Peer(owner, blocks.at(address))
    return peers


def _host(address: Address) -> Network:
    if isinstance(address, IPv4Address):
        return IPv4Network((int(address), 32))
    return IPv6Network((int(address), 128))


class IdentityNames:
    """Canonical and readable texts of identities; the canonical ones are the keys of `Numbers`."""

    def __init__(self, sets: tuple[LabelSet, ...]) -> None:
        self._sets = sets
        self._owners = [_canonical_owner(label_set) for label_set in sets]

    def canonical(self, peer: Peer) -> str:
        """Return a text that two peers share only if policy cannot tell them apart."""
        if peer.owner == OUTSIDE:
            owner: object = "outside"
        elif peer.owner == NODE:
            owner = "node"
        else:
            owner = self._owners[peer.owner]
        return json.dumps([owner, sorted(peer.blocks)], separators=(",", ":"))

    def readable(self, peer: Peer) -> str:
        """Return what a person should read for this identity."""
        blocks = ", ".join(sorted(peer.blocks, key=lambda text: (_prefixlen(text), text)))
        if peer.owner == OUTSIDE:
            return blocks or "world"
        owner = "node" if peer.owner == NODE else str(self._sets[peer.owner])
        return f"{owner} in {blocks}" if blocks else owner


def _canonical_owner(label_set: LabelSet) -> list[object]:
    ports = [[port.name, port.port, port.protocol.name] for port in label_set.ports]
    owner: list[object] = [
        label_set.namespace,
        dict(label_set.labels),
        {f"ns:{key}": value for key, value in label_set.namespace_labels},
        ports,
    ]
    return [*owner, "audit"] if label_set.audit else owner


def _prefixlen(block: str) -> int:
    """Order by the prefix length of a block's text, longest first."""
    return -int(block.split(" ", 1)[0].rpartition("/")[2])


class PeerIndex:
    """The numbers of all peers, by what a rule can say of them."""

    def __init__(self, numbered: Mapping[Peer, int]) -> None:
        self.outside: set[int] = set()
        self.node: set[int] = {IDENTITY_NODE}
        self.owner: dict[int, int] = {}  # number of a workload's peer -> its label set
        self._of_owner: dict[int, list[int]] = defaultdict(list)
        self._in_block: dict[str, set[int]] = defaultdict(set)
        for peer, number in numbered.items():
            if peer.owner == OUTSIDE:
                self.outside.add(number)
            elif peer.owner == NODE:
                self.node.add(number)
            else:
                self.owner[number] = peer.owner
                self._of_owner[peer.owner].append(number)
            for block in peer.blocks:
                self._in_block[block].add(number)

    def of_label_sets(self, owners: Iterable[int]) -> set[int]:
        """Return the peers that carry one of the label sets, in whatever blocks they are."""
        return {number for owner in owners for number in self._of_owner.get(owner, ())}

    def in_block(self, block: str) -> set[int]:
        """Return the peers inside an ipBlock, given by its text."""
        return self._in_block.get(block, set())


def number_peers(
    peers: Iterable[Peer], names: IdentityNames, identities: Mapping[str, int]
) -> dict[Peer, int]:
    """Return each distinct peer's number; `identities` are the allocated ones."""
    reserved = {WORLD_PEER: IDENTITY_WORLD, NODE_PEER: IDENTITY_NODE}
    return {
        peer: reserved[peer] if peer in reserved else identities[names.canonical(peer)]
        for peer in sorted(set(peers), key=lambda peer: (peer.owner, sorted(peer.blocks)))
    }
