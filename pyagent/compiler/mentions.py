"""What each policy mentions: labels, ports and ipBlocks; and the sum of it.

Read once from a policy and kept while the policy stays the same object. Used by `compile`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain

from pyagent.compiler.blocks import block_text
from pyagent.compiler.labels import Vocabulary
from pyagent.compiler.names import Policy, policy_name, policy_rules
from pyagent.model import (
    ClusterNetworkPolicy,
    Direction,
    IPBlock,
    LabelSelector,
    NetworkPolicy,
    PolicyPeer,
    PolicyRule,
    Snapshot,
)


@dataclass(frozen=True, slots=True)
class RuleMention:
    """One rule: its name, and its peers; of those that are ipBlocks, the texts."""

    name: str
    rule: PolicyRule
    peers: tuple[PolicyPeer | str, ...]


@dataclass(frozen=True, slots=True)
class Mentions:
    """What one policy mentions in rules that are in force: `policyTypes` may leave some out.

    `blocks` has ipBlocks by their text.
    """

    policy: Policy
    rules: dict[Direction, tuple[RuleMention, ...]]
    vocabulary: Vocabulary
    blocks: dict[Direction, dict[str, IPBlock]]
    reach: Reach


@dataclass(frozen=True, slots=True)
class Reach:
    """Outside of which no identity can be a policy's subject or peer: in its namespace, in those
    that have all labels of one of `namespace_labels`, or inside one of the blocks."""

    namespace: str
    namespace_labels: frozenset[frozenset[tuple[str, str]]]
    blocks: frozenset[str]


@dataclass(slots=True)
class Library:
    """The mentions of every policy of a snapshot, by the policy's name, and their sum."""

    policies: dict[str, Mentions] = field(default_factory=dict)
    rule_names: frozenset[str] = frozenset()
    vocabulary: Vocabulary = field(default_factory=Vocabulary)
    blocks: dict[Direction, dict[str, IPBlock]] = field(
        default_factory=lambda: {direction: {} for direction in Direction}
    )

    def read(self, snapshot: Snapshot) -> None:
        """Take a snapshot's policies in place of those before."""
        held, self.policies = self.policies, {}
        changed = False
        named: dict[str, Policy] = dict(snapshot.policies)
        named |= {policy_name(own): own for own in snapshot.cluster_policies.values()}
        for name, policy in named.items():
            mentions = held.get(name)
            if mentions is None or mentions.policy is not policy:
                mentions, changed = _mentions(policy), True
            self.policies[name] = mentions
        if changed or len(held) != len(self.policies):
            self._add_up()

    def _add_up(self) -> None:
        self.rule_names = frozenset(
            mention.name
            for mentions in self.policies.values()
            for rules in mentions.rules.values()
            for mention in rules
        )
        parts = [mentions.vocabulary for mentions in self.policies.values()]
        self.vocabulary = Vocabulary(
            frozenset().union(*(part.pod_keys for part in parts)),
            frozenset().union(*(part.namespace_keys for part in parts)),
            frozenset().union(*(part.port_names for part in parts)),
        )
        for direction in Direction:
            blocks: dict[str, IPBlock] = {}
            for mentions in self.policies.values():
                blocks |= mentions.blocks[direction]
            self.blocks[direction] = blocks


def _mentions(policy: Policy) -> Mentions:
    rules: dict[Direction, list[RuleMention]] = {direction: [] for direction in Direction}
    blocks: dict[Direction, dict[str, IPBlock]] = {direction: {} for direction in Direction}
    for direction, position, name in policy_rules(policy):
        rule = policy.rules(direction)[position]
        peers: list[PolicyPeer | str] = []
        for peer in rule.peers:
            if peer.ip_block is None:
                peers.append(peer)
            else:
                peers.append(text := block_text(peer.ip_block))
                blocks[direction][text] = peer.ip_block
        rules[direction].append(RuleMention(name, rule, tuple(peers)))
    return Mentions(
        policy,
        {direction: tuple(found) for direction, found in rules.items()},
        _vocabulary(policy, [mention.rule for found in rules.values() for mention in found]),
        blocks,
        _reach(policy, [mention for found in rules.values() for mention in found]),
    )


def _reach(policy: Policy, rules: Iterable[RuleMention]) -> Reach:
    selectors: list[LabelSelector] = []
    if isinstance(policy, ClusterNetworkPolicy):
        selectors.append(policy.namespace_selector)
    texts: set[str] = set()
    for peer in chain.from_iterable(mention.peers for mention in rules):
        if isinstance(peer, str):
            texts.add(peer)
        elif peer.namespace_selector is not None:
            selectors.append(peer.namespace_selector)
    return Reach(
        policy.namespace if isinstance(policy, NetworkPolicy) else "",
        frozenset(frozenset(selector.match_labels.items()) for selector in selectors),
        frozenset(texts),
    )


def _vocabulary(policy: Policy, rules: Iterable[PolicyRule]) -> Vocabulary:
    pods: list[LabelSelector | None] = [policy.pod_selector]
    namespaces: list[LabelSelector | None] = []
    if isinstance(policy, ClusterNetworkPolicy):
        namespaces.append(policy.namespace_selector)
    ports: set[str] = set()
    for rule in rules:
        pods += [peer.pod_selector for peer in rule.peers]
        namespaces += [peer.namespace_selector for peer in rule.peers]
        ports |= {entry.port for entry in rule.ports if isinstance(entry.port, str)}
    return Vocabulary(frozenset(_keys(pods)), frozenset(_keys(namespaces)), frozenset(ports))


def _keys(selectors: Iterable[LabelSelector | None]) -> Iterator[str]:
    for selector in selectors:
        if selector is not None:
            yield from selector.match_labels
            yield from (requirement.key for requirement in selector.match_expressions)


def asks_first(policy: Policy) -> tuple[int, str]:
    """Return a key that sorts policies of one kind and tier into the order they are asked in.

    The API leaves open which of two with one priority is first: here it is the one whose name is.
    """
    if isinstance(policy, NetworkPolicy):
        return 0, policy_name(policy)
    return policy.priority, policy.name
