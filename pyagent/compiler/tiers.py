"""The tiers of policy, asked in order: Admin, NetworkPolicy, Baseline, and the default, allow.

Rules of a ClusterNetworkPolicy are ordered and may deny, and they always speak of certain peers,
never of ANY_PEER. So each peer that one of them names gets rows that answer for it alone: for
every block that any rule mentions, what the tiers come to. Two blocks are nested or apart, so
what holds of the narrowest block around a packet holds of the packet. Used by `subjects`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pyagent.compiler.ports import Block
from pyagent.compiler.rows import ANY_PEER, PolicyValue, Verdict
from pyagent.compiler.tables import (
    PRECEDENCE_PEER,
    Group,
    Rule,
    Side,
    gather,
    look_up,
    merge,
    settle,
    settle_all,
)
from pyagent.model import Action

NO_RULE = 0  # the default deny has no rule


@dataclass(frozen=True, slots=True)
class Tiers:
    """The rules for one subject in one direction; those of Admin and Baseline in their order.

    `policies` is None where no NetworkPolicy selects the subject; the Baseline tier counts only
    then. `default` is the rule that allows what no tier decides.
    """

    admin: tuple[Rule, ...]
    policies: tuple[Rule, ...] | None
    baseline: tuple[Rule, ...]
    default: Rule


class _Matches(list[tuple[Rule, frozenset[Block]]]):
    """The ordered rules of one tier that name one peer, with their blocks."""

    def first(self, around: Iterable[Block]) -> Rule | None:
        """Return the first rule that has one of these blocks."""
        for rule, blocks in self:
            if not blocks.isdisjoint(around):
                return rule
        return None

    @property
    def content(self) -> tuple[tuple[int, frozenset[Block]], ...]:
        """What makes two of them alike."""
        return tuple((rule.number, blocks) for rule, blocks in self)


def judge(tiers: Tiers, side: Side) -> dict[int, Group]:
    """Return the settled groups by peer that the tiers come to."""
    selected = tiers.policies is not None
    lower = gather(tiers.policies if tiers.policies is not None else (tiers.default,), side)
    admin = _by_peer(tiers.admin, side)
    baseline = {} if selected else _by_peer(tiers.baseline, side)
    ordered = admin.keys() | baseline.keys()
    groups = settle_all({peer: group for peer, group in lower.items() if peer not in ordered})
    everybody, settled = lower.get(ANY_PEER, {}), groups.get(ANY_PEER, {})
    shared: dict[object, Group] = {}
    for peer in ordered:
        below = merge(everybody, lower.get(peer, {}))
        above, beside = admin.get(peer, _Matches()), baseline.get(peer, _Matches())
        alike = above.content, beside.content, frozenset(below.items())
        if alike not in shared:
            shared[alike] = _resolve(above, settle(below), beside)
        if not _says_the_same(shared[alike], settled):
            groups[peer] = shared[alike]
    return groups


def _by_peer(rules: Sequence[Rule], side: Side) -> dict[int, _Matches]:
    """Return for each peer the rules that name it, in their order."""
    found: dict[int, _Matches] = {}
    for rule in rules:
        of_rule: dict[int, list[Block]] = {}
        for peers, blocks in side.blocks(rule):
            for peer in peers if blocks else ():
                of_rule.setdefault(peer, []).extend(blocks)
        for peer, all_blocks in of_rule.items():
            found.setdefault(peer, _Matches()).append((rule, frozenset(all_blocks)))
    return found


def _resolve(admin: _Matches, policies: Group, baseline: _Matches) -> Group:
    """Return one peer's rows. `policies` is what NetworkPolicy or else the default allows it."""
    mentioned = set(policies).union(*(blocks for _, blocks in (*admin, *baseline)))
    resolved: Group = {}
    for block in sorted(mentioned, key=lambda block: block.length):
        around = (block, *block.covers())
        decided = _decide(admin.first(around))
        if decided is None:
            allowed = look_up(policies, block)
            decided = _decide(baseline.first(around)) or (
                PolicyValue(Verdict.DENY, PRECEDENCE_PEER, NO_RULE)
                if allowed is None
                else allowed._replace(precedence=PRECEDENCE_PEER)
            )
        held = look_up(resolved, block)
        in_vain = decided.rule == NO_RULE if held is None else decided == held
        if not in_vain:
            resolved[block] = decided
    return resolved


def _decide(rule: Rule | None) -> PolicyValue | None:
    """Return what a tier's first match says; None leaves it to the next tier."""
    if rule is None or rule.action is Action.PASS:
        return None
    verdict = Verdict.ALLOW if rule.action is Action.ACCEPT else Verdict.DENY
    return PolicyValue(verdict, PRECEDENCE_PEER, rule.number)


def _says_the_same(group: Group, everybody: Group) -> bool:
    """Say whether a peer's rows repeat those of ANY_PEER."""
    return group.keys() == everybody.keys() and all(
        (value.verdict, value.rule) == (everybody[block].verdict, everybody[block].rule)
        for block, value in group.items()
    )
