"""Objects to one consistent snapshot: the checks that need more than one object.

A `Ledger` keeps what it checked, so that the next snapshot costs what it changes. Used by
`directory`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from pyagent.errors import Problem
from pyagent.manifests.namespace import make_namespace
from pyagent.manifests.schema import Object
from pyagent.manifests.text import shorten
from pyagent.model import (
    Address,
    ClusterNetworkPolicy,
    Namespace,
    NetworkPolicy,
    Origin,
    Snapshot,
    Tenant,
    Workload,
)

_Item = TypeVar("_Item", Namespace, Workload, NetworkPolicy, ClusterNetworkPolicy, Tenant)
_Claimed = TypeVar("_Claimed", Address, str)


@dataclass(slots=True)
class SnapshotBuilder:
    """Takes objects in file order and tells what contradicts an earlier one."""

    _namespaces: dict[str, Namespace] = field(default_factory=dict)
    _workloads: dict[str, Workload] = field(default_factory=dict)
    _policies: dict[str, NetworkPolicy] = field(default_factory=dict)
    _cluster_policies: dict[str, ClusterNetworkPolicy] = field(default_factory=dict)
    _tenants: dict[str, Tenant] = field(default_factory=dict)
    _addresses: dict[Address, Workload] = field(default_factory=dict)
    _interfaces: dict[str, Workload] = field(default_factory=dict)
    _netns: dict[str, Workload] = field(default_factory=dict)
    _problems: list[Problem] = field(default_factory=list)  # of the object being added

    def add(self, item: Object) -> list[Problem]:
        """Enter one object, and return what is wrong with it beside those before it."""
        self._problems = []
        match item:
            case Namespace():
                self._enter(self._namespaces, item.name, item)
            case Tenant():
                self._enter(self._tenants, item.name, item)
            case NetworkPolicy():
                self._enter(self._policies, f"{item.namespace}/{item.name}", item)
            case ClusterNetworkPolicy():
                self._enter(self._cluster_policies, item.name, item)
            case Workload():
                if self._enter(self._workloads, item.key, item):
                    self._claim_all(item)
        return self._problems

    def remove(self, item: Object) -> None:
        """Take out one object that was entered and contradicts none."""
        match item:
            case Namespace():
                del self._namespaces[item.name]
            case Tenant():
                del self._tenants[item.name]
            case NetworkPolicy():
                del self._policies[f"{item.namespace}/{item.name}"]
            case ClusterNetworkPolicy():
                del self._cluster_policies[item.name]
            case Workload():
                del self._workloads[item.key]
                for address in item.addresses:
                    del self._addresses[address]
                if item.interface is not None:
                    del self._interfaces[item.interface]
                if item.netns is not None:
                    del self._netns[item.netns]

    def build(self, items: Iterable[Object], before: Mapping[str, Namespace]) -> Snapshot:
        """The snapshot of what was added, with the namespaces that are only named.

        `items` are the objects in the files' order. A namespace that is equal to the one in
        `before` is that one.
        """
        namespaces = dict(self._namespaces)
        for item in items:
            if isinstance(item, (Namespace, ClusterNetworkPolicy)):
                continue
            name = item.name if isinstance(item, Tenant) else item.namespace
            if name not in namespaces:
                made, held = make_namespace(name, {}, item.origin), before.get(name)
                namespaces[name] = held if held is not None and held == made else made
        return Snapshot(
            namespaces,
            dict(self._workloads),
            dict(self._policies),
            dict(self._tenants),
            dict(self._cluster_policies),
        )

    def _enter(self, objects: dict[str, _Item], key: str, item: _Item) -> bool:
        first = objects.setdefault(key, item)
        if first is item:
            return True
        message = f"{type(item).__name__} {key} is given twice, first in {_place(first.origin)}"
        self._report(item.origin, "metadata.name", message)
        return False

    def _claim_all(self, workload: Workload) -> None:
        for index, address in enumerate(workload.addresses):
            at = f"spec.addresses[{index}]"
            if address in workload.addresses[:index]:
                self._report(workload.origin, at, f"{address} is given twice")
            else:
                self._claim(self._addresses, address, workload, at)
        if workload.interface is not None:
            self._claim(self._interfaces, workload.interface, workload, "spec.interface")
        if workload.netns is not None:
            self._claim(self._netns, workload.netns, workload, "spec.netns")

    def _claim(
        self, owners: dict[_Claimed, Workload], what: _Claimed, workload: Workload, at: str
    ) -> None:
        owner = owners.setdefault(what, workload)
        if owner is not workload:
            used = f"{shorten(str(what))} is already used by Workload {owner.key}"
            self._report(workload.origin, at, f"{used} in {_place(owner.origin)}")

    def _report(self, origin: Origin, at: str, message: str) -> None:
        self._problems.append(Problem(origin.file, origin.document, at, message))


class Ledger:
    """Makes one snapshot after another from objects of which most stay the same."""

    def __init__(self) -> None:
        self._forget()

    def _forget(self) -> None:
        self._builder = SnapshotBuilder()
        self._items: dict[int, Object] = {}  # by id(), which is its own while it is kept here
        self._snapshot = Snapshot({}, {}, {}, {})

    def snapshot(self, items: list[Object]) -> tuple[Snapshot, list[Problem]]:
        """The snapshot of these objects, in the files' order, and what contradicts in them."""
        wanted = {id(item): item for item in items}
        new = [item for key, item in wanted.items() if key not in self._items]
        gone = [item for key, item in self._items.items() if key not in wanted]
        if not new and not gone:
            return self._snapshot, []
        for item in gone:
            self._builder.remove(item)
        problems = [problem for item in new for problem in self._builder.add(item)]
        if problems:  # tell them all in the order of a first reading, and begin anew after that
            self._forget()
            builder = SnapshotBuilder()
            return self._snapshot, [problem for item in items for problem in builder.add(item)]
        self._items = wanted
        self._snapshot = self._builder.build(items, self._snapshot.namespaces)
        return self._snapshot, []


def _place(origin: Origin) -> str:
    return f"{origin.file}: document {origin.document}"
