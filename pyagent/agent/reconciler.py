"""The reconciler: observe, compile, compare, apply in order, observe again.

Called by `service`, from one thread. It keeps in memory what is in the kernel, read once at the
start, so that a change costs its own size. Everything it does is safe to do again.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv6Address

from pyagent.agent.check import check_capacity, check_interfaces
from pyagent.compiler import Compiler, NodeFacts, Numbers
from pyagent.compiler.rows import Compiled
from pyagent.config import AgentConfig
from pyagent.errors import KernelError
from pyagent.kernel.netlink import Hook, Link, Netlink
from pyagent.kernel.tables import Tables
from pyagent.kernel.wiring import Wiring, attach, wire_workload
from pyagent.model import Snapshot, Workload
from pyagent.plan import Observed, RowMaker, Rows, Wired, overflow, plan
from pyagent.proxies import Proxies
from pyagent.state import NodeState, WorkloadState, read_numbers, write_numbers, write_state

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _InForce:
    """A snapshot that has been put in force, and what it was compiled to."""

    snapshot: Snapshot
    compiled: Compiled
    node_addresses: frozenset[IPv4Address | IPv6Address]


def _merge(old: Numbers, new: Numbers) -> Numbers:
    """Numbers that either revision uses: what a crash between the two may have left behind."""
    return Numbers(
        identities={**old.identities, **new.identities},
        rules={**old.rules, **new.rules},
        tenants={**old.tenants, **new.tenants},
    )


def tenants_with_proxy(snapshot: Snapshot) -> frozenset[str]:
    """Tenants that need a proxy here: they hand something off and have a workload."""
    here = {workload.namespace for workload in snapshot.workloads.values()}
    return frozenset(
        name for name, tenant in snapshot.tenants.items() if tenant.http_ports and name in here
    )


class Reconciler:
    """Puts snapshots in force on one node."""

    def __init__(
        self,
        config: AgentConfig,
        netlink: Netlink,
        programs: Mapping[str, int],
        tables: Tables,
        proxies: Proxies,
        state: NodeState,
    ) -> None:
        self._config = config
        self._netlink = netlink
        self._wiring = Wiring(config.state_dir)
        self._programs = {
            Hook.INGRESS: (programs["from_workload"], "from_workload"),
            Hook.EGRESS: (programs["to_workload"], "to_workload"),
        }
        self._tables = tables
        self._proxies = proxies
        self._state = state
        stored = read_numbers(config.state_dir)
        self._numbers = Numbers.from_json(stored) if stored is not None else Numbers()
        self._compiler = Compiler()
        self._rows = RowMaker()
        self._checked_rows = RowMaker()  # for what is not wired yet
        self._have: Rows = tables.read()
        self._wired: dict[str, tuple[Workload, Wired]] = {}
        self._in_force: _InForce | None = None

    # The three occasions to act

    def put_in_force(self, snapshot: Snapshot) -> None:
        """Makes node and kernel what a snapshot says.

        InvalidState when the node cannot do it, KernelError when the kernel refused; the former
        before anything was changed.
        """
        begun = time.monotonic()
        before = frozenset(self._have.workloads)
        links = {link.name: link for link in self._netlink.links()}
        check_interfaces(snapshot, links)
        facts = NodeFacts(self._netlink.addresses(), self._config.node_traffic)
        compiled, numbers = self._compiler.compile(snapshot, self._numbers, facts)
        in_force = _InForce(snapshot, compiled, facts.addresses)
        self._refuse_overflow(in_force)
        write_numbers(self._config.state_dir, _merge(self._numbers, numbers).to_json())
        needed = tenants_with_proxy(snapshot)
        self._proxies.ensure({name: compiled.tenants[name] for name in sorted(needed)})
        self._wire_namespaces(snapshot)
        self._enter_interfaces(snapshot, links)
        self._in_force = in_force
        self._write()
        self._attach_interfaces(snapshot)
        self._release(snapshot, links, before)
        self._numbers = numbers
        write_numbers(self._config.state_dir, numbers.to_json())
        self._record(time.monotonic() - begun)

    def proxies_changed(self) -> None:
        """A proxy began or ceased to serve: its redirect follows."""
        if self._in_force is not None:
            self._write()

    def resync(self) -> None:
        """Mends what was changed behind the agent's back: interfaces, filters, addresses."""
        if self._in_force is None:
            return
        if self._netlink.addresses() != self._in_force.node_addresses:
            self.put_in_force(self._in_force.snapshot)
            return
        for key, (workload, wired) in tuple(self._wired.items()):
            try:
                self._mend(key, workload, wired)
            except KernelError as error:
                _log.warning("workload %s: %s", key, error)
        self._write()

    # Steps

    def _refuse_overflow(self, in_force: _InForce) -> None:
        """The interfaces of workloads still to be wired have no number yet: any will do."""
        stand_in = {
            key: Wired(-1 - at, "", "") for at, key in enumerate(in_force.snapshot.workloads)
        }
        stand_in |= {
            key: wired
            for key, (_, wired) in self._wired.items()
            if key in in_force.snapshot.workloads
        }
        want = self._checked_rows.rows(
            in_force.snapshot, in_force.compiled, Observed(in_force.node_addresses, stand_in, {})
        )
        capacities = self._tables.capacities()
        needed = overflow(self._have if self._wired else Rows(), want, capacities)
        if needed is not None:
            capacity = capacities[needed[0]]
            raise check_capacity(in_force.snapshot, in_force.compiled, needed, capacity)

    def _wire_namespaces(self, snapshot: Snapshot) -> None:
        for key, workload in snapshot.workloads.items():
            before = self._wired.get(key)
            same = before is not None and (before[0].netns, before[0].addresses) == (
                workload.netns,
                workload.addresses,
            )
            if workload.netns is not None and not same:
                self._wired[key] = (workload, self._wire(key, workload))

    def _wire(self, key: str, workload: Workload) -> Wired:
        assert workload.netns is not None
        return wire_workload(
            self._netlink,
            self._wiring,
            key,
            workload.netns,
            workload.addresses,
            self._programs,
        )

    def _enter_interfaces(self, snapshot: Snapshot, links: Mapping[str, Link]) -> None:
        """Notes the interfaces that are there already; their programs come after their rows."""
        for key, workload in snapshot.workloads.items():
            if workload.interface is None:
                continue
            link = links[workload.interface]
            mac = self._netlink.peer_mac(link) or link.mac
            self._wired[key] = (workload, Wired(link.index, mac, link.mac))

    def _attach_interfaces(self, snapshot: Snapshot) -> None:
        for key, workload in snapshot.workloads.items():
            if workload.interface is not None:
                attach(self._netlink, self._wired[key][1].index, self._programs)

    def _mend(self, key: str, workload: Workload, wired: Wired) -> None:
        if workload.netns is not None:
            if self._netlink.link_by_index(wired.index) is None:
                self._wired[key] = (workload, self._wire(key, workload))
                return
        else:
            link = self._netlink.link(workload.interface or "")
            if link is None:
                raise KernelError(f"its interface {workload.interface} is gone")
            mac = self._netlink.peer_mac(link) or link.mac
            self._wired[key] = (workload, Wired(link.index, mac, link.mac))
        attach(self._netlink, self._wired[key][1].index, self._programs)

    def _write(self) -> None:
        """Brings the kernel's rows to what is in force and observed now."""
        assert self._in_force is not None
        snapshot = self._in_force.snapshot
        observed = Observed(
            self._in_force.node_addresses,
            {key: wired for key, (_, wired) in self._wired.items() if key in snapshot.workloads},
            self._proxies.wired,
            self._proxies.ready(),
        )
        want = self._rows.rows(snapshot, self._in_force.compiled, observed)
        todo = plan(self._have, want)
        if not todo.changes:
            return
        try:
            self._tables.apply(todo)
        except KernelError:
            self._have = self._tables.read()  # part of it was written
            raise
        self._have = want

    def _release(
        self, snapshot: Snapshot, links: Mapping[str, Link], before: frozenset[int]
    ) -> None:
        """Lets go of interfaces and proxies that are wanted no more, their rows gone already.

        What an agent left that was killed half-way is known by the rows it wrote, `before`, and
        by its aliases.
        """
        for key in self._wired.keys() - snapshot.workloads.keys():
            del self._wired[key]
        known = {wired.index for _, wired in self._wired.values()}
        needed = tenants_with_proxy(snapshot)
        for link in links.values():
            kind, name = self._wiring.owner(link) or ("", "")
            if kind == "workload" and link.index not in known:
                self._netlink.delete_link(link.index)
            elif not kind and link.index in before - known:
                self._netlink.detach(link.index)
            elif kind == "proxy" and name not in needed:
                self._proxies.remove(name)

    def _record(self, seconds: float) -> None:
        """Leaves on disk what the numbers in the kernel mean."""
        assert self._in_force is not None
        snapshot, compiled = self._in_force.snapshot, self._in_force.compiled
        names = {link.index: link.name for link in self._netlink.links()}
        self._state = replace(
            self._state,
            applied=time.time(),
            apply_seconds=seconds,
            problems=(),
            counts={
                "namespaces": len(snapshot.namespaces),
                "workloads": len(snapshot.workloads),
                "policies": len(snapshot.policies) + len(snapshot.cluster_policies),
                "tenants": len(snapshot.tenants),
            },
            rules=dict(compiled.rules),
            identities=dict(compiled.identity_labels),
            tenants={number: name for name, number in compiled.tenants.items()},
            workloads=tuple(
                WorkloadState(
                    key=key,
                    identity=compiled.workload_identity[key],
                    tenant=compiled.workload_tenant[key],
                    interface=names.get(wired.index, ""),
                    ifindex=wired.index,
                    netns=workload.netns,
                    addresses=tuple(str(address) for address in workload.addresses),
                )
                for key, (workload, wired) in sorted(self._wired.items())
            ),
        )
        write_state(self._config.state_dir, self._state)

    def record_problems(self, problems: tuple[str, ...]) -> None:
        """Leaves on disk why the newest snapshot is not in force."""
        self._state = replace(self._state, problems=problems)
        write_state(self._config.state_dir, self._state)

    @property
    def state(self) -> NodeState:
        """What was last left on disk."""
        return self._state
