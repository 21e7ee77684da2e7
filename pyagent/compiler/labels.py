"""Which workloads a selector matches, answered for whole sets of labels at once.

Workloads that agree in namespace, labels and named ports are one label set. For every label there
is one integer whose bits say which label sets carry it, so a selector is a few operations on
integers however many workloads there are. Used by `compile` to find subjects and peers.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

from pyagent.model import (
    LabelSelector,
    NamedPort,
    Operator,
    PolicyPeer,
    Requirement,
    Snapshot,
    Workload,
)


@dataclass(frozen=True, slots=True)
class LabelSet:
    """What policy can see of a workload. `ports` has only those that some policy names."""

    namespace: str
    labels: tuple[tuple[str, str], ...]  # sorted
    namespace_labels: tuple[tuple[str, str], ...]  # sorted
    ports: tuple[NamedPort, ...]  # sorted
    audit: bool  # of the workload or of its namespace

    def __str__(self) -> str:
        text = ", ".join(f"{key}={value}" for key, value in self.labels) or "no labels"
        if self.ports:
            named = (f"{port.name}={port.port}/{port.protocol.name}" for port in self.ports)
            text += f" ({', '.join(named)})"
        if self.audit:
            text += " (audit)"
        return f"{self.namespace}: {text}"


class LabelIndex:
    """Every label set of a snapshot, by position, and the selectors' view of them."""

    def __init__(self, snapshot: Snapshot, port_names: frozenset[str]) -> None:
        namespace_labels = {
            name: tuple(sorted(namespace.labels.items()))
            for name, namespace in snapshot.namespaces.items()
        }
        positions: dict[LabelSet, int] = {}
        self.of_workload: dict[str, int] = {}
        for key, workload in sorted(snapshot.workloads.items()):
            label_set = LabelSet(
                workload.namespace,
                tuple(sorted(workload.labels.items())),
                namespace_labels[workload.namespace],
                _named_ports(workload, port_names),
                workload.audit or snapshot.namespaces[workload.namespace].audit,
            )
            self.of_workload[key] = positions.setdefault(label_set, len(positions))
        self.sets = tuple(positions)
        self._index()

    def _index(self) -> None:
        self._in_namespace: dict[str, int] = defaultdict(int)
        self._workloads = _Carriers()
        self._namespaces = _Carriers()
        for position, label_set in enumerate(self.sets):
            self._in_namespace[label_set.namespace] |= 1 << position
            self._workloads.add(label_set.labels, 1 << position)
        done: set[str] = set()
        for label_set in self.sets:
            if label_set.namespace not in done:
                done.add(label_set.namespace)
                members = self._in_namespace[label_set.namespace]
                self._namespaces.add(label_set.namespace_labels, members)

    def subjects(self, namespace: str, selector: LabelSelector) -> Iterator[int]:
        """Give the positions of the label sets that a policy of `namespace` selects."""
        return _positions(self._in_namespace.get(namespace, 0) & self._workloads.match(selector))

    def peers(self, namespace: str, peer: PolicyPeer) -> Iterator[int]:
        """Give the positions of the label sets that the selectors of a NetworkPolicyPeer match.

        A peer without any selector matches none: it is either an ipBlock or invalid.
        """
        if peer.pod_selector is None and peer.namespace_selector is None:
            return iter(())
        if peer.namespace_selector is None:
            members = self._in_namespace.get(namespace, 0)
        else:
            members = self._namespaces.match(peer.namespace_selector)
        if peer.pod_selector is not None:
            members &= self._workloads.match(peer.pod_selector)
        return _positions(members)


class _Carriers:
    """For each label and each label key, the label sets that carry it, as bits."""

    def __init__(self) -> None:
        self._all = 0
        self._pairs: dict[tuple[str, str], int] = defaultdict(int)
        self._keys: dict[str, int] = defaultdict(int)

    def add(self, labels: tuple[tuple[str, str], ...], members: int) -> None:
        self._all |= members
        for key, value in labels:
            self._pairs[key, value] |= members
            self._keys[key] |= members

    def match(self, selector: LabelSelector) -> int:
        """Return who satisfies every entry of the selector; an empty selector, all of them."""
        members = self._all
        for pair in selector.match_labels.items():
            members &= self._pairs.get(pair, 0)
        for requirement in selector.match_expressions:
            members &= self._require(requirement)
        return members

    def _require(self, requirement: Requirement) -> int:
        if requirement.operator is Operator.EXISTS:
            return self._keys.get(requirement.key, 0)
        if requirement.operator is Operator.DOES_NOT_EXIST:
            return self._all & ~self._keys.get(requirement.key, 0)
        listed = 0
        for value in requirement.values:
            listed |= self._pairs.get((requirement.key, value), 0)
        return listed if requirement.operator is Operator.IN else self._all & ~listed


def _named_ports(workload: Workload, names: frozenset[str]) -> tuple[NamedPort, ...]:
    ports = {port for port in workload.ports if port.name in names}
    return tuple(sorted(ports, key=lambda port: (port.name, port.protocol, port.port)))


def _positions(members: int) -> Iterator[int]:
    """Give the positions of the bits that are set, lowest first."""
    while members:
        lowest = members & -members
        yield lowest.bit_length() - 1
        members ^= lowest
