"""What each policy mentions: labels, ports and ipBlocks; and the sum of it.

Read once from a policy and kept while the policy stays the same object. Used by `compile`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from pyagent.compiler.blocks import block_text
from pyagent.compiler.labels import Vocabulary
from pyagent.compiler.names import Policy, every_policy, policy_name, policy_rules
from pyagent.model import (
    ClusterNetworkPolicy,
    Direction,
    IPBlock,
    LabelSelector,
    NetworkPolicy,
    PolicyRule,
    Snapshot,
)


@dataclass(frozen=True, slots=True)
class Mentions:
    """What one policy mentions in rules that are in force: `policyTypes` may leave some out.

    `rules` gives the names of its rules; `blocks` has ipBlocks by their text.
    """

    policy: Policy
    rules: dict[Direction, tuple[str, ...]]
    vocabulary: Vocabulary
    blocks: dict[Direction, dict[str, IPBlock]]


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
        for policy in every_policy(snapshot):
            name = policy_name(policy)
            mentions = held.get(name)
            if mentions is None or mentions.policy is not policy:
                mentions, changed = _mentions(policy), True
            self.policies[name] = mentions
        if changed or len(held) != len(self.policies):
            self._add_up()

    def _add_up(self) -> None:
        self.rule_names = frozenset(
            name
            for mentions in self.policies.values()
            for names in mentions.rules.values()
            for name in names
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
    names: dict[Direction, list[str]] = {direction: [] for direction in Direction}
    rules: list[PolicyRule] = []
    blocks: dict[Direction, dict[str, IPBlock]] = {direction: {} for direction in Direction}
    for direction, position, name in policy_rules(policy):
        rule = policy.rules(direction)[position]
        names[direction].append(name)
        rules.append(rule)
        for peer in rule.peers:
            if peer.ip_block is not None:
                blocks[direction][block_text(peer.ip_block)] = peer.ip_block
    return Mentions(
        policy,
        {direction: tuple(found) for direction, found in names.items()},
        _vocabulary(policy, rules),
        blocks,
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
