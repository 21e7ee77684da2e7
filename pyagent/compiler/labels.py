"""Label sets: what policy can see of a workload.

Workloads that no policy can tell apart are one label set, and so one identity. Of labels, and of
named ports, only those count that some policy names: a label that makes each workload unique
makes no identities unless a selector asks for it. Used by `places`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from pyagent.model import NamedPort, Namespace, Workload

Labels = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """What policies name: keys of workloads' labels, of namespaces' labels, names of ports."""

    pod_keys: frozenset[str] = frozenset()
    namespace_keys: frozenset[str] = frozenset()
    port_names: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, eq=False)
class LabelSet:
    """What the vocabulary tells of a workload; `LabelSets` makes one object for each."""

    namespace: str
    labels: Labels  # sorted
    namespace_labels: Labels  # sorted
    ports: tuple[NamedPort, ...]  # sorted
    audit: bool  # of the workload or of its namespace

    def __str__(self) -> str:
        text = ", ".join(f"{key}={value}" for key, value in self.labels)
        text = f"{self.namespace}: {text}" if text else self.namespace
        if self.ports:
            named = (f"{port.name}={port.port}/{port.protocol.name}" for port in self.ports)
            text += f" ({', '.join(named)})"
        return f"{text} (audit)" if self.audit else text

    @property
    def canonical(self) -> list[object]:
        """What tells it from every other one, for JSON."""
        ports = [[port.name, port.port, port.protocol.name] for port in self.ports]
        namespace_labels = {f"ns:{key}": value for key, value in self.namespace_labels}
        own: list[object] = [self.namespace, dict(self.labels), namespace_labels, ports]
        return [*own, "audit"] if self.audit else own


class LabelSets:
    """Makes label sets, one object for each that differs."""

    def __init__(self) -> None:
        self._made: dict[tuple[object, ...], LabelSet] = {}

    def of(self, workload: Workload, namespace: Namespace, vocabulary: Vocabulary) -> LabelSet:
        """Return the label set of a workload."""
        parts = (
            workload.namespace,
            tuple(sorted(_named(workload.labels.items(), vocabulary.pod_keys))),
            tuple(sorted(_named(namespace.labels.items(), vocabulary.namespace_keys))),
            _ports(workload.ports, vocabulary.port_names) if workload.ports else (),
            workload.audit or namespace.audit,
        )
        made = self._made.get(parts)
        if made is None:
            self._made[parts] = made = LabelSet(*parts)
        return made

    def forget(self, label_set: LabelSet | str) -> None:
        """Let go of a label set that is used no more."""
        assert isinstance(label_set, LabelSet)
        del self._made[
            label_set.namespace,
            label_set.labels,
            label_set.namespace_labels,
            label_set.ports,
            label_set.audit,
        ]


def _named(labels: Iterable[tuple[str, str]], keys: frozenset[str]) -> list[tuple[str, str]]:
    return [pair for pair in labels if pair[0] in keys]


def _ports(ports: tuple[NamedPort, ...], names: frozenset[str]) -> tuple[NamedPort, ...]:
    found = {port for port in ports if port.name in names}
    return tuple(sorted(found, key=lambda port: (port.name, port.protocol, port.port)))
