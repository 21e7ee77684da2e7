"""Planning: from the rows that are in the kernel and those that should be, the ordered writes.

Pure: values in, values out. Called by the agent, and by `sluice plan` to show what would change.
Additions come before removals, and what a redirect leads to comes before the redirect, so that at
every step each flow gets its old or its new verdict. Large tables are `Grouped`, and groups that
are the same object in both are not looked into.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_network
from typing import Any, NamedTuple

from pyagent.compiler.rows import Compiled, Grouped, PolicyKey, PolicyValue
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
    return RowMaker().rows(snapshot, compiled, observed)


class _Made(NamedTuple):
    """One workload's rows, and what they were made from."""

    identity: int
    tenant: int
    wired: Wired
    addresses: tuple[Address, ...]
    workload: Mapping[int, WorkloadRow]
    local: Mapping[Address, LocalRow]


def _make(identity: int, tenant: int, wired: Wired, addresses: tuple[Address, ...]) -> _Made:
    workload = WorkloadRow(identity, tenant, wired.mac, wired.node_mac)
    local = LocalRow(wired.index, identity, tenant, wired.mac, wired.node_mac)
    groups = {wired.index: workload}, dict.fromkeys(addresses, local)
    return _Made(identity, tenant, wired, addresses, *groups)


class RowMaker:
    """Makes the desired rows again and again, keeping groups whose input stays the same."""

    def __init__(self) -> None:
        self._made: dict[str, _Made] = {}
        self._node: frozenset[Address] = frozenset()
        self._numbers: Mapping[Hashable, Mapping[Network, int]] = {}
        self._identities: dict[Hashable, Mapping[Network, IdentityRow]] = {}

    def rows(self, snapshot: Snapshot, compiled: Compiled, observed: Observed) -> Rows:
        """See `desired_rows`."""
        self._make_workloads(snapshot, compiled, observed)
        self._make_identities(compiled, observed.node_addresses)
        return Rows(
            workloads=Grouped({key: made.workload for key, made in self._made.items()}),
            local_addrs=Grouped({key: made.local for key, made in self._made.items()}),
            identities=Grouped(self._identities),
            policy=compiled.policy,
            tenants=_tenant_rows(snapshot, compiled, observed),
            proxies={
                # also one whose tenant has gone, as long as it drains
                wired.index: ProxyRow(compiled.tenants.get(name, 0), wired.mac)
                for name, wired in observed.proxies.items()
            },
        )

    def _make_workloads(self, snapshot: Snapshot, compiled: Compiled, observed: Observed) -> None:
        held, self._made = self._made, {}
        for key, wired in observed.workloads.items():
            identity, tenant = compiled.workload_identity[key], compiled.workload_tenant[key]
            addresses = snapshot.workloads[key].addresses
            made = held.get(key)
            if (
                made is None
                or made.identity != identity
                or made.tenant != tenant
                or made.wired != wired
                or made.addresses != addresses
            ):
                made = _make(identity, tenant, wired, addresses)
            self._made[key] = made

    def _make_identities(self, compiled: Compiled, addresses: frozenset[Address]) -> None:
        same = self._identities if addresses == self._node else {}
        node = {ip_network(address) for address in addresses}
        identities: dict[Hashable, Mapping[Network, IdentityRow]] = {}
        for key, numbers in compiled.identities.groups.items():
            if key in same and self._numbers.get(key) is numbers:
                identities[key] = same[key]
            else:
                identities[key] = {
                    prefix: IdentityRow(identity, prefix in node)
                    for prefix, identity in numbers.items()
                }
        self._node, self._numbers, self._identities = (
            addresses,
            compiled.identities.groups,
            identities,
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


@dataclass(frozen=True, slots=True)
class _Difference:
    """What turns one table into another; of what is put, some replaces."""

    put: Mapping[Any, Any]
    gone: tuple[Any, ...]
    added: int


def _difference(old: Mapping[Any, Any], new: Mapping[Any, Any]) -> _Difference:
    put: dict[Any, Any] = {}
    gone: dict[Any, Any] = {}
    replaced = 0
    for before, after in _pairs(old, new):
        for key, value in after.items():
            held = before.get(key)
            if held != value:
                put[key] = value
                replaced += held is not None
        for key, held in before.items():
            if key not in after:
                gone[key] = held
    for key in gone.keys() & put.keys():  # from one group to another
        replaced += 1
        if gone.pop(key) == put[key]:
            del put[key]
            replaced -= 1
    return _Difference(put, tuple(gone), len(put) - replaced)


def _pairs(
    old: Mapping[Any, Any], new: Mapping[Any, Any]
) -> Iterator[tuple[Mapping[Any, Any], Mapping[Any, Any]]]:
    """Gives old and new part by part, less what is the same."""
    if old is new:
        return
    if not isinstance(old, Grouped) or not isinstance(new, Grouped):
        yield old, new
        return
    for name, after in new.groups.items():
        before = old.groups.get(name, {})
        if before is not after:
            yield before, after
    for name in old.groups.keys() - new.groups.keys():
        yield old.groups[name], {}


def plan(have: Rows, want: Rows) -> Plan:
    """The ordered changes that turn `have` into `want`; none when they are the same."""
    puts, removals = [], []
    for name in WRITE_ORDER:
        difference = _difference(have.table(name), want.table(name))
        if difference.put:
            puts.append(Change(name, put=difference.put))
        if difference.gone:
            removals.append(Change(name, remove=difference.gone))
    changes = (*puts, *reversed(removals))
    return Plan(changes, any(change.map in _JUDGED_BY for change in changes))


def overflow(have: Rows, want: Rows, capacity: Mapping[str, int]) -> tuple[str, int] | None:
    """The first map that could not hold old and new rows together, and how many those are."""
    for name in WRITE_ORDER:
        old = have.table(name)
        needed = len(old) + _difference(old, want.table(name)).added
        if needed > capacity[name]:
            return name, needed
    return None
