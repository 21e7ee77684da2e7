"""The policy rows of every subject: which rules select it, and what they come to.

Kept from one compilation to the next: a policy is looked at again when it, the identities or its
rules' numbers changed, and a subject's rows are made again when its rules, or what lies beneath
them, did. Subjects that agree in what makes their rows share the work. Used by `compile`.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field

from pyagent.compiler.index import Peers, Subjects, Touched
from pyagent.compiler.labels import LabelSet
from pyagent.compiler.members import Numbers, positions
from pyagent.compiler.mentions import Mentions, RuleMention, asks_first
from pyagent.compiler.names import DEFAULT_RULE, NODE_RULE, default_deny_name, handoff_name
from pyagent.compiler.rows import Grouped, PolicyKey, PolicyValue
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
from pyagent.model import Action, ClusterRule, Direction, NetworkPolicy, Tenant, Tier

Rules = dict[Direction, tuple[Rule, ...]]
RowGroup = dict[PolicyKey, PolicyValue]


@dataclass(frozen=True, slots=True)
class _Found:
    """A policy with its subjects and its rules' peers found."""

    mentions: Mentions
    selected: Numbers
    rules: Rules

    def judges(self, direction: Direction) -> bool:
        """Say whether the policy has a say in a direction, be it without any rule."""
        policy = self.mentions.policy
        if isinstance(policy, NetworkPolicy):
            return direction in policy.directions
        return bool(self.rules[direction])

    @property
    def names_ports(self) -> bool:
        """Say whether its egress rules depend on peers' named ports."""
        return any(rule.names_ports for rule in self.rules[Direction.EGRESS])


@dataclass(slots=True)
class _Selecting:
    """The rules that select one subject in one direction, as they are found."""

    admin: list[Rule] = field(default_factory=list)
    policies: list[Rule] | None = None
    baseline: list[Rule] = field(default_factory=list)

    def add(self, found: _Found, direction: Direction) -> None:
        """Enter a policy's rules; they come in the order in which they are asked."""
        policy = found.mentions.policy
        if isinstance(policy, NetworkPolicy):
            self.policies = [*(self.policies or ()), *found.rules[direction]]
        else:
            tier = self.admin if policy.tier is Tier.ADMIN else self.baseline
            tier.extend(found.rules[direction])

    def tiers(self, default: Rule) -> Tiers:
        """Return them frozen."""
        policies = None if self.policies is None else tuple(self.policies)
        return Tiers(tuple(self.admin), policies, tuple(self.baseline), default)


@dataclass(frozen=True, slots=True)
class Ground:
    """What rows depend on beside policies. `rules` are the numbers of rules by their names."""

    rules: Mapping[str, int]
    tenants: Mapping[str, Tenant]
    trust_node: bool

    def default(self) -> Rule:
        """Return the rule that allows what no tier decides."""
        return Rule(self.rules[DEFAULT_RULE], None, ())

    def handoffs(self, namespace: str) -> dict[int, int]:
        """Return the rules that hand ports of a namespace's tenant off, by port."""
        tenant = self.tenants.get(namespace)
        ports = tenant.http_ports if tenant is not None else ()
        return {port: self.rules[handoff_name(namespace, port)] for port in ports}


def _rule(mention: RuleMention, ground: Ground, peers: Numbers | None) -> Rule:
    rule = mention.rule
    action = rule.action if isinstance(rule, ClusterRule) else Action.ACCEPT
    return Rule(ground.rules[mention.name], peers, rule.ports, action)


class PolicyRows:
    """The policy rows of all subjects."""

    def __init__(self, subjects: Subjects, peers: Peers) -> None:
        self._subjects = subjects
        self._peers = peers
        self._found: dict[str, _Found] = {}
        self._beneath: dict[str, Hashable] = {}
        self._with_ports: Mapping[int, LabelSet] = {}
        self._groups: dict[Hashable, RowGroup] = {}

    def update(
        self,
        policies: Mapping[str, Mentions],
        ground: Ground,
        changed: Numbers,
        touched: Touched,
    ) -> Grouped[PolicyKey, PolicyValue]:
        """Return all rows. `changed` are the subjects that are new, another's, or gone."""
        dirty = changed | self._find_all(policies, ground, touched)
        dirty |= self._look_beneath(ground)
        if dirty:
            groups = dict(self._groups)
            for number in positions(dirty & ~self._subjects.members.everybody):
                groups.pop(number, None)
            self._make(groups, dirty & self._subjects.members.everybody, ground)
            self._groups = groups
        return Grouped(self._groups)

    def _find_all(
        self, policies: Mapping[str, Mentions], ground: Ground, touched: Touched
    ) -> Numbers:
        """Bring what was found to these policies; return the subjects that this concerns."""
        dirty = 0
        found: dict[str, _Found] = {}
        for name, mentions in policies.items():
            old = self._found.get(name)
            same = old is not None and old.mentions is mentions
            if old is None or not same or touched.by(mentions.reach):
                new = self._find(mentions, ground, old)
            else:
                new = self._renumber(old, ground)
            found[name] = new
            if old is None:
                dirty |= new.selected
            elif new is not old:
                same = (
                    same
                    and new.rules[Direction.INGRESS] is old.rules[Direction.INGRESS]
                    and new.rules[Direction.EGRESS] is old.rules[Direction.EGRESS]
                )
                dirty |= new.selected ^ old.selected if same else new.selected | old.selected
        for name in self._found.keys() - found.keys():
            dirty |= self._found[name].selected
        self._found = found
        return dirty

    def _find(self, mentions: Mentions, ground: Ground, old: _Found | None) -> _Found:
        """Find a policy's subjects and its rules' peers; `old` is what was found before."""
        policy, members = mentions.policy, self._subjects.members
        if isinstance(policy, NetworkPolicy):
            namespace, namespaces = policy.namespace, None
        else:
            namespace, namespaces = "", policy.namespace_selector
        rules: Rules = {}
        for direction, of_policy in mentions.rules.items():
            rules[direction] = tuple(
                _rule(mention, ground, self._peers.of_rule(namespace, mention.peers))
                for mention in of_policy
            )
            if old is not None and rules[direction] == old.rules[direction]:
                rules[direction] = old.rules[direction]
        return _Found(mentions, members.select(namespace, policy.pod_selector, namespaces), rules)

    def _renumber(self, old: _Found, ground: Ground) -> _Found:
        """Return what was found, or the same with other numbers for its rules."""
        for direction, of_policy in old.mentions.rules.items():
            for mention, rule in zip(of_policy, old.rules[direction], strict=True):
                if ground.rules[mention.name] != rule.number:
                    return self._find(old.mentions, ground, None)
        return old

    def _look_beneath(self, ground: Ground) -> Numbers:
        """Return the subjects under whose rules something changed."""
        dirty = 0
        beneath: dict[str, Hashable] = {}
        members = self._subjects.members
        for namespace, numbers in members.in_namespace.items():
            handoffs = ground.handoffs(namespace)
            beneath[namespace] = (
                ground.rules[DEFAULT_RULE],
                ground.rules.get(default_deny_name(namespace)),
                (ground.rules[NODE_RULE], self._peers.node) if ground.trust_node else None,
                (frozenset(handoffs.items()), self._peers.outside) if handoffs else None,
            )
            if self._beneath.get(namespace) != beneath[namespace]:
                dirty |= numbers
        if self._with_ports is not self._peers.with_ports:
            for found in self._found.values():
                dirty |= found.selected if found.names_ports else 0
        self._beneath, self._with_ports = beneath, self._peers.with_ports
        return dirty

    def _make(self, groups: dict[Hashable, RowGroup], dirty: Numbers, ground: Ground) -> None:
        """Make the rows of subjects anew."""
        selecting: dict[tuple[int, Direction], _Selecting] = {}
        for found in sorted(self._found.values(), key=lambda f: asks_first(f.mentions.policy)):
            concerned = found.selected & dirty
            for direction in Direction:
                if concerned and found.judges(direction):
                    for number in positions(concerned):
                        rules = selecting.setdefault((number, direction), _Selecting())
                        rules.add(found, direction)
        default = ground.default()
        shared: dict[Hashable, dict[int, Group]] = {}
        for number in positions(dirty):
            label_set = self._subjects.label_sets[number]
            rows: RowGroup = {}
            for direction in Direction:
                tiers = selecting.get((number, direction), _Selecting()).tiers(default)
                alike = direction, tiers, label_set.namespace, label_set.ports, label_set.audit
                if alike not in shared:
                    shared[alike] = self._judge(direction, tiers, label_set, ground)
                for peer, group in shared[alike].items():
                    for block, value in group.items():
                        rows[PolicyKey(number, peer, direction, *block)] = value
            groups[number] = rows

    def _judge(
        self, direction: Direction, tiers: Tiers, subject: LabelSet, ground: Ground
    ) -> dict[int, Group]:
        """Return one subject's settled rows of one direction, by peer."""
        groups = judge(tiers, Side(direction, subject.ports, self._peers.with_ports))
        if subject.audit:
            rule = ground.rules[default_deny_name(subject.namespace)]
            audit(groups, rule, tiers.policies is not None)
        handoffs = ground.handoffs(subject.namespace)
        if direction is Direction.EGRESS:
            hand_off_egress(groups, handoffs, positions(self._peers.outside))
            return groups
        hand_off_ingress(groups, handoffs)
        if ground.trust_node:
            trust_node(groups, positions(self._peers.node), ground.rules[NODE_RULE])
        return groups
