"""Who has which number now: identities as subjects and as peers, and how rules find them.

Kept from one compilation to the next; each brings it to the identities in use. Used by `compile`
and `subjects`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from pyagent.compiler.labels import LabelSet
from pyagent.compiler.members import Members, Numbers, toggle
from pyagent.compiler.mentions import Reach
from pyagent.compiler.places import NODE, NODE_PEER, OUTSIDE, WORLD_PEER, Peer, canonical
from pyagent.compiler.rows import IDENTITY_NODE, IDENTITY_WORLD
from pyagent.model import PolicyPeer

RESERVED = {WORLD_PEER: IDENTITY_WORLD, NODE_PEER: IDENTITY_NODE}


@dataclass(frozen=True, slots=True)
class Touched:
    """What identities that came or went have: only policies that reach there are concerned."""

    namespaces: set[str] = field(default_factory=set)
    namespace_labels: set[tuple[str, str]] = field(default_factory=set)
    blocks: set[str] = field(default_factory=set)

    def add(self, label_set: LabelSet) -> None:
        """Note what one has."""
        self.namespaces.add(label_set.namespace)
        self.namespace_labels.update(label_set.namespace_labels)

    def by(self, reach: Reach) -> bool:
        """Say whether a policy may find others than before."""
        return (
            reach.namespace in self.namespaces
            or (
                bool(self.namespaces)
                and any(labels <= self.namespace_labels for labels in reach.namespace_labels)
            )
            or not reach.blocks.isdisjoint(self.blocks)
        )


class Names:
    """The canonical names of peers, which are made once: they are the keys of `Numbers`."""

    def __init__(self) -> None:
        self._names: dict[Peer, str] = {}

    def read(self, in_use: Iterable[Peer]) -> dict[Peer, str]:
        """Return the names of those in use that have no reserved number."""
        held = self._names
        self._names = {
            peer: held.get(peer) or canonical(peer) for peer in in_use if peer not in RESERVED
        }
        return self._names


class Subjects:
    """The label sets in use, by number."""

    def __init__(self) -> None:
        self.members = Members()
        self.label_sets: dict[int, LabelSet] = {}

    def update(
        self, number_of: Mapping[Peer, int], in_use: Iterable[Peer], touched: Touched
    ) -> Numbers:
        """Bring it to those in use; return the numbers that are new, another's, or gone."""
        wanted = {
            number_of[peer]: peer.owner for peer in in_use if isinstance(peer.owner, LabelSet)
        }
        changed = _renew(self.members, self.label_sets, wanted, touched)
        self.label_sets = wanted
        return changed


class Peers:
    """The peers in use, by what a rule can say of them."""

    def __init__(self) -> None:
        self.members = Members()
        self.outside: Numbers = 0
        self.node: Numbers = 1 << IDENTITY_NODE
        self.with_ports: dict[int, LabelSet] = {}  # those that have named ports
        self._peers: dict[int, Peer] = {}
        self._in_block: dict[str, Numbers] = {}

    def update(
        self, number_of: Mapping[Peer, int], in_use: Iterable[Peer], touched: Touched
    ) -> None:
        """Bring it to those in use."""
        wanted = {number_of[peer]: peer for peer in in_use}
        if wanted == self._peers:
            return
        old, new = _label_sets(self._peers), _label_sets(wanted)
        _renew(self.members, old, new, touched)
        for numbers in (self._peers, wanted):
            for number, peer in numbers.items():
                if self._peers.get(number) != wanted.get(number):
                    touched.blocks.update(peer.blocks)
                    for block in peer.blocks:
                        toggle(self._in_block, block, 1 << number)
        self._peers = wanted
        self.outside = _of_owner(wanted, OUTSIDE)
        self.node = _of_owner(wanted, NODE) | 1 << IDENTITY_NODE
        with_ports = {number: label_set for number, label_set in new.items() if label_set.ports}
        if with_ports != self.with_ports:
            self.with_ports = with_ports

    def of_rule(self, namespace: str, peers: tuple[PolicyPeer | str, ...]) -> Numbers | None:
        """Return whom a rule is about, by its peers or the texts of ipBlocks; None: everybody."""
        if not peers:
            return None
        found = 0
        for peer in peers:
            if isinstance(peer, str):
                found |= self._in_block.get(peer, 0)
            else:
                found |= self.members.of_peer(namespace, peer)
        return found


def _label_sets(peers: Mapping[int, Peer]) -> dict[int, LabelSet]:
    return {n: peer.owner for n, peer in peers.items() if isinstance(peer.owner, LabelSet)}


def _of_owner(peers: Mapping[int, Peer], owner: str) -> Numbers:
    return sum(1 << number for number, peer in peers.items() if peer.owner == owner)


def _renew(
    members: Members, old: Mapping[int, LabelSet], new: Mapping[int, LabelSet], touched: Touched
) -> Numbers:
    """Bring members from the old label sets to the new ones; return the numbers that changed."""
    changed = {n for n, label_set in old.items() if new.get(n) is not label_set}
    changed |= {n for n, label_set in new.items() if old.get(n) is not label_set}
    for number in changed:
        for label_sets in (old, new):
            if number in label_sets:
                members.toggle(number, label_sets[number])
                touched.add(label_sets[number])
    return sum(1 << number for number in changed)
