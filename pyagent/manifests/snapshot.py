"""Objects to one consistent snapshot: the checks that need more than one object.

Used by `directory`.
"""

from __future__ import annotations

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
    _implied: dict[str, Origin] = field(default_factory=dict)
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
                self._implied.setdefault(item.name, item.origin)
            case NetworkPolicy():
                self._enter(self._policies, f"{item.namespace}/{item.name}", item)
                self._implied.setdefault(item.namespace, item.origin)
            case ClusterNetworkPolicy():
                self._enter(self._cluster_policies, item.name, item)
            case Workload():
                if self._enter(self._workloads, item.key, item):
                    self._claim_all(item)
                self._implied.setdefault(item.namespace, item.origin)
        return self._problems

    def build(self) -> Snapshot:
        """The snapshot of what was added, with the namespaces that are only named."""
        implied = {
            name: make_namespace(name, {}, origin)
            for name, origin in self._implied.items()
            if name not in self._namespaces
        }
        return Snapshot(
            self._namespaces | implied,
            self._workloads,
            self._policies,
            self._tenants,
            self._cluster_policies,
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


def _place(origin: Origin) -> str:
    return f"{origin.file}: document {origin.document}"
