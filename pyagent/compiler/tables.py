"""One subject's rows in one direction: groups of blocks by peer, settled for longest prefix.

In the kernel the longest prefix hides the shorter ones of the same subject, peer and direction;
between the peer's group and that of ANY_PEER the higher precedence wins. So within a group every
row must already say what is best of all that cover it. Used by `subjects`; `tiers` settles the
groups of peers that ordered rules speak of.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from pyagent.compiler.labels import LabelSet
from pyagent.compiler.members import Numbers, positions
from pyagent.compiler.ports import EVERYTHING, Block, blocks_of, single
from pyagent.compiler.rows import ANY_PEER, PolicyValue, Verdict
from pyagent.model import Action, Direction, NamedPort, PolicyPort, Protocol

PRECEDENCE_AUDIT = 50  # in place of the default deny, below every rule
PRECEDENCE_ALLOW = 100
PRECEDENCE_HANDOFF = 200
# The peer's own rows are the whole answer about it, whatever those of ANY_PEER say.
PRECEDENCE_PEER = 300

Group = dict[Block, PolicyValue]


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule of a policy with its peers found, or None for everybody."""

    number: int
    peers: Numbers | None
    ports: tuple[PolicyPort, ...]
    action: Action = Action.ACCEPT

    @property
    def names_ports(self) -> bool:
        """Say whether a port is given by name, so that it depends on the destination."""
        return any(isinstance(entry.port, str) for entry in self.ports)


@dataclass(frozen=True, slots=True)
class Side:
    """What rules are about in one direction: the subject's named ports, and the peers that have
    named ports, which only workloads do."""

    direction: Direction
    ports: Sequence[NamedPort]
    workloads: Mapping[int, LabelSet]

    def blocks(self, rule: Rule) -> list[tuple[Iterable[int], list[Block]]]:
        """Return for whom the rule has which blocks; some peers may come twice.

        A named port is the destination's: of the subject on ingress, of each peer on egress.
        """
        peers = (ANY_PEER,) if rule.peers is None else tuple(positions(rule.peers))
        if self.direction is Direction.INGRESS or not rule.names_ports:
            return [(peers, blocks_of(rule.ports, self.ports))]
        # Everybody has the plain ports of the rule, each workload also its own named ones.
        plain = tuple(entry for entry in rule.ports if not isinstance(entry.port, str))
        named = tuple(entry for entry in rule.ports if isinstance(entry.port, str))
        found: list[tuple[Iterable[int], list[Block]]] = []
        if plain:
            found.append((peers, blocks_of(plain, ())))
        for peer, workload in self.workloads.items():
            if rule.peers is None or rule.peers >> peer & 1:
                found.append(((peer,), blocks_of(named, workload.ports)))
        return found


def best(one: PolicyValue, other: PolicyValue) -> PolicyValue:
    """Return the value of higher precedence; of equals, that of the lower rule number."""
    return max(one, other, key=lambda value: (value.precedence, -value.rule))


def gather(rules: Iterable[Rule], side: Side) -> dict[int, Group]:
    """Return the groups that rules make whose order is no matter, by peer, not yet settled."""
    groups: dict[int, Group] = {}
    for rule in rules:
        value = PolicyValue(Verdict.ALLOW, PRECEDENCE_ALLOW, rule.number)
        for peers, blocks in side.blocks(rule):
            for peer in peers if blocks else ():
                _add(groups.setdefault(peer, {}), blocks, value)
    return groups


def _add(group: Group, blocks: Iterable[Block], value: PolicyValue) -> None:
    for block in blocks:
        held = group.get(block)
        group[block] = value if held is None else best(held, value)


def merge(one: Group, other: Group) -> Group:
    """Return what either group says, not yet settled."""
    merged = dict(one)
    for block, value in other.items():
        _add(merged, (block,), value)
    return merged


def settle(group: Group) -> Group:
    """Return the group with every row at the best of what covers it, and no row in vain.

    A row that says what the narrowest row around it says is left out.
    """
    if len(group) == 1:
        return group
    settled: Group = {}
    for block in sorted(group, key=lambda block: block.length):
        around = look_up(settled, block)
        value = group[block] if around is None else best(around, group[block])
        if value != around:
            settled[block] = value
    return settled


def look_up(group: Group, block: Block) -> PolicyValue | None:
    """Return the value of the narrowest row that holds the whole block, as the kernel finds it."""
    value = group.get(block)
    if value is not None:
        return value
    for cover in block.covers():
        value = group.get(cover)
        if value is not None:
            return value
    return None


def settle_all(groups: Mapping[int, Group]) -> dict[int, Group]:
    """Settle every group. Peers whose rows are alike, as most are, share one group after it."""
    settled: dict[frozenset[tuple[Block, PolicyValue]], Group] = {}
    shared: dict[int, Group] = {}
    for peer, group in groups.items():
        content = frozenset(group.items())
        if content not in settled:
            settled[content] = settle(group)
        shared[peer] = settled[content]
    return shared


def hand_off_ingress(groups: Mapping[int, Group], ports: Mapping[int, int]) -> None:
    """Turn what settled groups allow on the tenant's ports (port -> rule) into HANDOFF.

    A group that several peers share may come up again: what is HANDOFF already stays.
    """
    for group in groups.values():
        group.update(_handoffs(group, ports))


def hand_off_egress(
    groups: dict[int, Group], ports: Mapping[int, int], outside: Iterable[int]
) -> None:
    """Do the same towards peers outside only; workloads have their own tenant's proxy.

    What is allowed to everybody is allowed to peers outside, whose own rows then say HANDOFF,
    unless their own rows are the whole answer.
    """
    for_everybody = _handoffs(groups.get(ANY_PEER, {}), ports)
    for peer in outside:
        group = groups.get(peer, {})
        rows = _handoffs(group, ports)
        if not is_whole(group):
            rows = for_everybody | rows
        if rows:
            groups[peer] = group | rows


def is_whole(group: Group) -> bool:
    """Say whether a peer's rows are the whole answer about it."""
    return any(value.precedence == PRECEDENCE_PEER for value in group.values())


def trust_node(groups: dict[int, Group], node: Iterable[int], rule: int) -> None:
    """Let everything from the node in, whatever policies say."""
    for peer in node:
        groups[peer] = {EVERYTHING: PolicyValue(Verdict.ALLOW, PRECEDENCE_PEER, rule)}


def audit(groups: dict[int, Group], rule: int, default_deny: bool) -> None:
    """Turn denials into AUDIT. `rule` stands for the default deny, which is for everybody."""
    for group in groups.values():
        for block, value in group.items():
            if value.verdict is Verdict.DENY:
                group[block] = PolicyValue(Verdict.AUDIT, value.precedence, value.rule or rule)
    if default_deny:
        everybody = {EVERYTHING: PolicyValue(Verdict.AUDIT, PRECEDENCE_AUDIT, rule)}
        groups[ANY_PEER] = everybody | groups.get(ANY_PEER, {})


def _handoffs(group: Group, ports: Mapping[int, int]) -> Group:
    """Return the HANDOFF rows for those ports that a settled group allows."""
    rows: Group = {}
    for port, rule in ports.items():
        block = single(Protocol.TCP, port)
        value = look_up(group, block)
        if value is not None and value.verdict is Verdict.ALLOW:
            precedence = max(value.precedence, PRECEDENCE_HANDOFF)
            rows[block] = PolicyValue(Verdict.HANDOFF, precedence, rule)
    return rows
