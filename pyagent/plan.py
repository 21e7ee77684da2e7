"""Planning: from the rows that are in the kernel and those that should be, the ordered writes.

Pure: values in, values out. Called by the agent, and by `sluice plan` to show what would change.
Additions come before removals, and what a redirect leads to comes before the redirect, so that at
every step each flow gets its old or its new verdict.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import ip_network
from typing import Any, NamedTuple

from pyagent.compiler.rows import Compiled, PolicyKey, PolicyValue
from pyagent.model import Address, FailureMode, Network, Snapshot


class WorkloadRow(NamedTuple):
    """Value of `workloads`, keyed by the node-side ifindex."""

    identity: int
    tenant: int
    mac: str
    node_mac: str


class LocalRow(NamedTuple):
    """Value of `local_addrs`, keyed by address."""

    ifindex: int
    identity: int
    tenant: int
    mac: str
    node_mac: str


class IdentityRow(NamedTuple):
    """Value of `identities`, keyed by prefix."""

    identity: int
    node: bool  # an address of the node itself


class TenantRow(NamedTuple):
    """Value of `tenants`, keyed by the tenant's number. `proxy` 0: it has none."""

    proxy: int
    ready: bool
    failure_mode: FailureMode


class ProxyRow(NamedTuple):
    """Value of `proxies`, keyed by the node-side ifindex."""

    tenant: int
    mac: str


@dataclass(frozen=True, slots=True)
class Rows:
    """All rows that the agent writes, by map."""

    workloads: Mapping[int, WorkloadRow] = field(default_factory=dict)
    local_addrs: Mapping[Address, LocalRow] = field(default_factory=dict)
    identities: Mapping[Network, IdentityRow] = field(default_factory=dict)
    policy: Mapping[PolicyKey, PolicyValue] = field(default_factory=dict)
    tenants: Mapping[int, TenantRow] = field(default_factory=dict)
    proxies: Mapping[int, ProxyRow] = field(default_factory=dict)

    def table(self, name: str) -> Mapping[Any, Any]:
        """The rows of one map."""
        rows: Mapping[Any, Any] = getattr(self, name)
        return rows


@dataclass(frozen=True, slots=True)
class Wired:
    """One wired veth: its node-side index and both ends' MACs."""

    index: int
    mac: str
    node_mac: str


@dataclass(frozen=True, slots=True)
class Observed:
    """What the node looks like: its own addresses, the wired workloads by key, the wired proxies
    by tenant, and the tenants whose proxy serves."""

    node_addresses: frozenset[Address]
    workloads: Mapping[str, Wired]
    proxies: Mapping[str, Wired]
    ready: frozenset[str] = frozenset()


def desired_rows(snapshot: Snapshot, compiled: Compiled, observed: Observed) -> Rows:
    """All rows for a compiled snapshot on this node. A workload that isn't wired has none."""
    workloads, local_addrs = {}, {}
    for key, wired in observed.workloads.items():
        identity, tenant = compiled.workload_identity[key], compiled.workload_tenant[key]
        workloads[wired.index] = WorkloadRow(identity, tenant, wired.mac, wired.node_mac)
        row = LocalRow(wired.index, identity, tenant, wired.mac, wired.node_mac)
        local_addrs.update(dict.fromkeys(snapshot.workloads[key].addresses, row))
    node = {ip_network(address) for address in observed.node_addresses}
    return Rows(
        workloads=workloads,
        local_addrs=local_addrs,
        identities={
            prefix: IdentityRow(identity, prefix in node)
            for prefix, identity in compiled.identities.items()
        },
        policy=compiled.policy,
        tenants=_tenant_rows(snapshot, compiled, observed),
        proxies={
            # also one whose tenant has gone, as long as it drains
            wired.index: ProxyRow(compiled.tenants.get(name, 0), wired.mac)
            for name, wired in observed.proxies.items()
        },
    )


def _tenant_rows(
    snapshot: Snapshot, compiled: Compiled, observed: Observed
) -> dict[int, TenantRow]:
    rows = {}
    for name, number in compiled.tenants.items():
        wired = observed.proxies.get(name)
        rows[number] = TenantRow(
            proxy=wired.index if wired else 0,
            ready=wired is not None and name in observed.ready,
            failure_mode=snapshot.tenants[name].failure_mode,
        )
    return rows


# What a row points to stands before it.
WRITE_ORDER = ("proxies", "tenants", "policy", "identities", "workloads", "local_addrs")
_JUDGED_BY = frozenset({"policy", "identities", "workloads", "local_addrs"})


@dataclass(frozen=True, slots=True)
class Change:
    """The writes to one map: either `put` is added or replaced, or `remove` goes."""

    map: str
    put: Mapping[Any, Any] = field(default_factory=dict)
    remove: tuple[Any, ...] = ()


@dataclass(frozen=True, slots=True)
class Plan:
    """Changes in the order in which they are applied; `new_revision`: flows are judged again."""

    changes: tuple[Change, ...]
    new_revision: bool

    @property
    def writes(self) -> int:
        """How many rows are put or removed."""
        return sum(len(change.put) + len(change.remove) for change in self.changes)


def plan(have: Rows, want: Rows) -> Plan:
    """The ordered changes that turn `have` into `want`; none when they are the same."""
    puts, removals = [], []
    for name in WRITE_ORDER:
        old, new = have.table(name), want.table(name)
        put = {key: value for key, value in new.items() if old.get(key) != value}
        gone = tuple(key for key in old if key not in new)
        if put:
            puts.append(Change(name, put=put))
        if gone:
            removals.append(Change(name, remove=gone))
    changes = (*puts, *reversed(removals))
    return Plan(changes, any(change.map in _JUDGED_BY for change in changes))


def overflow(have: Rows, want: Rows, capacity: Mapping[str, int]) -> tuple[str, int] | None:
    """The first map that could not hold old and new rows together, and how many those are."""
    for name in WRITE_ORDER:
        old, new = have.table(name), want.table(name)
        needed = len(old) + sum(1 for key in new if key not in old)
        if needed > capacity[name]:
            return name, needed
    return None
