"""From a snapshot to the kernel's rows, in the order: mentions, places, numbers, index, rows.

`Compiler` keeps what each step came to, so that the next snapshot costs what it changes; every
step compares its input with the one before, by identity where objects are large. The rows do not
depend on what was compiled before, only the numbers given do.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass

from pyagent.compiler.blocks import BlockIndex, Blocks
from pyagent.compiler.index import RESERVED, Names, Peers, Subjects, Touched
from pyagent.compiler.mentions import Library
from pyagent.compiler.names import rule_names
from pyagent.compiler.numbers import Numbers
from pyagent.compiler.places import Peer, Places, readable
from pyagent.compiler.rows import Compiled, Grouped, PolicyKey, PolicyValue
from pyagent.compiler.subjects import Ground, PolicyRows
from pyagent.config import NodeTraffic
from pyagent.model import Address, Direction, Network, Snapshot

_OTHERS = ""  # the group of prefixes that no workload owns


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """What the compiler must know of the node: its addresses, and how its own traffic is judged."""

    addresses: frozenset[Address]
    traffic: NodeTraffic


def compile_snapshot(
    snapshot: Snapshot, numbers: Numbers, node: NodeFacts
) -> tuple[Compiled, Numbers]:
    """Compile once; see `Compiler.compile`."""
    return Compiler().compile(snapshot, numbers, node)


class Compiler:
    """Compiles one snapshot after another, each at the cost of what it changes."""

    def __init__(self) -> None:
        self._state = _State()

    def compile(
        self, snapshot: Snapshot, numbers: Numbers, node: NodeFacts
    ) -> tuple[Compiled, Numbers]:
        """Compile a valid snapshot; `numbers` are those of the revision that the kernel holds.

        Returns the rows and the numbers they use. The result depends on the arguments only, not
        on the order of any mapping in them, nor on what this compiler did before.
        """
        state, self._state = self._state, _State()  # half-way, nothing is worth keeping
        result = state.compile(snapshot, numbers, node)
        self._state = state
        return result


class _State:
    def __init__(self) -> None:
        self._library = Library()
        self._block_texts: frozenset[str] | None = None
        self._blocks = BlockIndex(())
        self._places = Places()
        self._names = Names()
        self._subjects = Subjects()
        self._peers = Peers()
        self._rows = PolicyRows(self._subjects, self._peers)
        self._number_of: dict[Peer, int] = {}
        self._texts: dict[Peer, str] = {}
        self._identities: dict[Hashable, Mapping[Network, int]] = {}
        self._workloads: dict[str, int] = {}

    def compile(
        self, snapshot: Snapshot, numbers: Numbers, node: NodeFacts
    ) -> tuple[Compiled, Numbers]:
        self._library.read(snapshot)
        self._renew_blocks()
        places = self._places
        moved = places.update(
            snapshot, self._library.vocabulary, self._blocks, self._node_blocks(node)
        )
        names = self._names.read(places.subjects.keys() | places.peers.keys())
        renewed = numbers.renew(
            identities=names.values(),
            rules=rule_names(snapshot, node.traffic, self._library.rule_names),
            tenants=snapshot.tenants,
        )
        before = self._number_of
        self._number_of = RESERVED | {
            peer: renewed.identities[name] for peer, name in names.items()
        }
        touched = Touched()
        changed = self._subjects.update(self._number_of, places.subjects, touched)
        self._peers.update(self._number_of, places.peers, touched)
        ground = Ground(renewed.rules, snapshot.tenants, node.traffic is NodeTraffic.ALLOW)
        policy = self._rows.update(self._library.policies, ground, changed, touched)
        self._renew_identities(moved, before)
        return self._compiled(snapshot, policy, renewed), renewed

    def _renew_blocks(self) -> None:
        blocks = self._library.blocks
        texts = frozenset().union(*blocks.values())
        if texts != self._block_texts:
            self._block_texts = texts
            self._blocks = BlockIndex(
                block for of_direction in blocks.values() for block in of_direction.values()
            )

    def _node_blocks(self, node: NodeFacts) -> dict[Address, Blocks]:
        """Return which ipBlocks count for each address of the node.

        Where all the node sends is allowed, only those of egress do, so that the node stays one
        identity unless a policy sets one of its addresses apart.
        """
        if node.traffic is NodeTraffic.POLICY:
            return {address: self._blocks.at(address) for address in node.addresses}
        egress = frozenset(self._library.blocks[Direction.EGRESS])
        return {address: self._blocks.at(address) & egress for address in node.addresses}

    def _renew_identities(self, moved: Iterable[str], before: Mapping[Peer, int]) -> None:
        """Renew the groups of prefixes whose peers, or their numbers, are others now."""
        number_of, places = self._number_of, self._places.places
        renumbered = {peer for peer, number in before.items() if number_of.get(peer) != number}
        concerned = set(moved)
        if renumbered:
            concerned |= {
                key
                for key, place in places.items()
                if place.subject in renumbered or not renumbered.isdisjoint(place.peers.values())
            }
        identities, workloads = dict(self._identities), dict(self._workloads)
        for key in concerned:
            place = places.get(key)
            if place is None:
                identities.pop(key, None)
                workloads.pop(key, None)
            else:
                workloads[key] = number_of[place.subject]
                _renew_group(identities, key, place.peers, number_of)
        _renew_group(identities, _OTHERS, self._places.others, number_of)
        self._identities, self._workloads = identities, workloads

    def _compiled(
        self, snapshot: Snapshot, policy: Grouped[PolicyKey, PolicyValue], renewed: Numbers
    ) -> Compiled:
        self._texts = {peer: self._texts.get(peer) or readable(peer) for peer in self._number_of}
        return Compiled(
            policy=policy,
            identities=Grouped(self._identities),
            workload_identity=self._workloads,
            workload_tenant={
                key: renewed.tenants.get(workload.namespace, 0)
                for key, workload in snapshot.workloads.items()
            },
            identity_labels={number: self._texts[peer] for peer, number in self._number_of.items()},
            rules={number: name for name, number in renewed.rules.items()},
            tenants=dict(renewed.tenants),
        )


def _renew_group(
    groups: dict[Hashable, Mapping[Network, int]],
    key: str,
    peers: Mapping[Network, Peer],
    number_of: Mapping[Peer, int],
) -> None:
    group = {prefix: number_of[peer] for prefix, peer in peers.items()}
    if groups.get(key) != group:
        groups[key] = group
