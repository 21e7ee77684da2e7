"""Where identities live: the label set of every workload, and the peer at every prefix.

A workload has two kinds of identity. As a *subject*, whom policies select, it is one for its label
set. As a *peer* it is one for each address: a label set together with the ipBlocks that contain
the address, because an ipBlock matches an address whoever owns it. Where no ipBlock in use
contains the address, both are the same. Used by `compile`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Network
from typing import NamedTuple

from pyagent.compiler.blocks import BlockIndex, Blocks
from pyagent.compiler.labels import LabelSet, LabelSets, Vocabulary
from pyagent.model import Address, Namespace, Network, Snapshot, Workload

OUTSIDE = "outside"
NODE = "node"


class Peer(NamedTuple):
    """What policy can tell of an address."""

    owner: LabelSet | str  # OUTSIDE and NODE have no labels
    blocks: Blocks


WORLD_PEER = Peer(OUTSIDE, frozenset())
NODE_PEER = Peer(NODE, frozenset())


@dataclass(frozen=True, slots=True)
class Place:
    """One workload: from what its label set was made, and the peers at its addresses."""

    workload: Workload
    namespace: Namespace
    label_set: LabelSet
    peers: Mapping[Network, Peer]

    @property
    def subject(self) -> Peer:
        """The workload as policies select it."""
        return Peer(self.label_set, frozenset())


@dataclass(slots=True)
class Places:
    """Every workload's place, the peers at prefixes that no workload owns, and who is in use."""

    places: dict[str, Place] = field(default_factory=dict)
    others: dict[Network, Peer] = field(default_factory=dict)
    subjects: dict[Peer, int] = field(default_factory=dict)  # how many workloads
    peers: dict[Peer, int] = field(default_factory=dict)  # at how many prefixes
    _label_sets: LabelSets = field(default_factory=LabelSets)
    _vocabulary: Vocabulary = field(default_factory=Vocabulary)
    _blocks: BlockIndex = field(default_factory=lambda: BlockIndex(()))
    _node: Mapping[Address, Blocks] = field(default_factory=dict)
    _owned: dict[Network, str] = field(default_factory=dict)

    def update(
        self,
        snapshot: Snapshot,
        vocabulary: Vocabulary,
        blocks: BlockIndex,
        node: Mapping[Address, Blocks],
    ) -> set[str]:
        """Take over a snapshot; return the workloads whose place is new, other, or gone.

        `node` gives the node's addresses, each with the ipBlocks that count for it.
        """
        words = _Words(self._vocabulary, vocabulary)
        stirred = [] if blocks is self._blocks else blocks.stirred(self._blocks)
        self._vocabulary, self._blocks = vocabulary, blocks
        changed: dict[str, Place | None] = dict.fromkeys(
            self.places.keys() - snapshot.workloads.keys()
        )
        for key, workload in snapshot.workloads.items():
            held = self.places.get(key)
            namespace = snapshot.namespaces[workload.namespace]
            if (
                held is None
                or not _alike(held.workload, workload)
                or held.namespace is not namespace
                or (stirred and _touches(stirred, workload.addresses))
                or (words.differ and words.concern(workload, namespace))
            ):
                changed[key] = self._place(workload, namespace)
        before = [self._enter(key, place) for key, place in changed.items()]
        for subject in {place.subject for place in before if place is not None}:
            if subject not in self.subjects:
                self._label_sets.forget(subject.owner)
        if changed or stirred or not self.others or node != self._node:
            self._node = node
            self._surround()
        return set(changed)

    def _place(self, workload: Workload, namespace: Namespace) -> Place:
        label_set = self._label_sets.of(workload, namespace, self._vocabulary)
        peers = {
            _host(address): Peer(label_set, self._blocks.at(address))
            for address in workload.addresses
        }
        return Place(workload, namespace, label_set, peers)

    def _enter(self, key: str, place: Place | None) -> Place | None:
        """Put a workload's new place, if it has one, where the old one was; return that."""
        old = self.places.pop(key, None)
        if place is not None:
            self.places[key] = place
            _count(self.subjects, place.subject, 1)
            for prefix, peer in place.peers.items():
                _count(self.peers, peer, 1)
                self._owned[prefix] = key
        if old is not None:
            for prefix, peer in old.peers.items():
                _count(self.peers, peer, -1)
                if self._owned.get(prefix) == key and (place is None or prefix not in place.peers):
                    del self._owned[prefix]
            _count(self.subjects, old.subject, -1)
        return old

    def _surround(self) -> None:
        """Renew the peers at prefixes of ipBlocks, and at the node's addresses."""
        others = {
            prefix: Peer(OUTSIDE, inside)
            for prefix, inside in self._blocks.regions.items()
            if prefix.prefixlen < prefix.max_prefixlen or prefix not in self._owned
        }
        for address, inside in self._node.items():
            prefix = _host(address)
            if prefix not in self._owned:
                others[prefix] = Peer(NODE, inside)
        if others != self.others:
            for peer in others.values():
                _count(self.peers, peer, 1)
            for peer in self.others.values():
                _count(self.peers, peer, -1)
            self.others = others


def _alike(one: Workload, other: Workload) -> bool:
    """Say whether two workloads have the same place, be they read from different documents."""
    return one is other or (
        one.labels == other.labels
        and one.ports == other.ports
        and one.audit == other.audit
        and one.addresses == other.addresses
    )


def _touches(stirred: list[tuple[int, int, int]], addresses: Iterable[Address]) -> bool:
    """Say whether one of the addresses lies where ipBlocks changed; see `BlockIndex.stirred`."""
    for address in addresses:
        value, version = int(address), address.version
        if any(value >> shift == lead for of, shift, lead in stirred if of == version):
            return True
    return False


class _Words:
    """What was added to a vocabulary or taken out of it."""

    def __init__(self, old: Vocabulary, new: Vocabulary) -> None:
        self.differ = old != new
        self._pods = old.pod_keys ^ new.pod_keys
        self._namespaces = old.namespace_keys ^ new.namespace_keys
        self._ports = old.port_names ^ new.port_names

    def concern(self, workload: Workload, namespace: Namespace) -> bool:
        """Say whether the workload's label set may be another one."""
        return not (
            self._pods.isdisjoint(workload.labels)
            and self._namespaces.isdisjoint(namespace.labels)
            and self._ports.isdisjoint(port.name for port in workload.ports)
        )


def _count(uses: dict[Peer, int], peer: Peer, step: int) -> None:
    left = uses.get(peer, 0) + step
    if left:
        uses[peer] = left
    else:
        del uses[peer]


def _host(address: Address) -> Network:
    if isinstance(address, IPv4Address):
        return IPv4Network((int(address), 32))
    return IPv6Network((int(address), 128))


def canonical(peer: Peer) -> str:
    """Return a text that two peers share only if policy cannot tell them apart."""
    owner = peer.owner if isinstance(peer.owner, str) else peer.owner.canonical
    return json.dumps([owner, sorted(peer.blocks)], separators=(",", ":"))


def readable(peer: Peer) -> str:
    """Return what a person should read for this identity."""
    blocks = ", ".join(sorted(peer.blocks, key=lambda text: (_prefixlen(text), text)))
    if peer.owner == OUTSIDE:
        return blocks or "world"
    return f"{peer.owner} in {blocks}" if blocks else str(peer.owner)


def _prefixlen(block: str) -> int:
    """Order by the prefix length of a block's text, longest first."""
    return -int(block.split(" ", 1)[0].rpartition("/")[2])
