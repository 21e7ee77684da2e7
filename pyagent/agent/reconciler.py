"""The reconciler: observe, compile, compare, apply in order, observe again.

Called by `service`, from one thread. It keeps in memory what is in the kernel, read once at the
start, so that a change costs its own size. Everything it does is safe to do again.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv6Address

from pyagent.agent.check import check_capacity, check_interfaces
from pyagent.agent.numbers import merge, numbers_at_start
from pyagent.agent.workloads import Workloads
from pyagent.compiler import Compiler, NodeFacts, Numbers
from pyagent.compiler.rows import Compiled
from pyagent.config import AgentConfig
from pyagent.errors import KernelError
from pyagent.kernel.netlink import Link, Netlink
from pyagent.kernel.tables import Tables
from pyagent.kernel.wiring import Wiring
from pyagent.model import Snapshot
from pyagent.plan import Change, Observed, Plan, RowMaker, Rows, Wired, overflow, plan
from pyagent.proxies import Proxies
from pyagent.state import NodeState, write_numbers, write_state


@dataclass(frozen=True, slots=True)
class _InForce:
    """A snapshot that has been put in force, and what it was compiled to."""

    snapshot: Snapshot
    compiled: Compiled
    node_addresses: frozenset[IPv4Address | IPv6Address]


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
        self._workloads = Workloads(netlink, self._wiring, programs)
        self._tables = tables
        self._proxies = proxies
        self._state = state
        self._compiler = Compiler()
        self._rows = RowMaker()
        self._checked_rows = RowMaker()  # for what is not wired yet
        tables.allow_questions()
        self._have: Rows = tables.read()
        self._numbers = numbers_at_start(config.state_dir, self._have, self._proxies_there())
        self._kept: Numbers | None = None  # on disk, as far as this run knows
        self._in_force: _InForce | None = None

    def _proxies_there(self) -> dict[int, str]:
        """The tenants whose proxies are wired, by interface."""
        owners = {link.index: self._wiring.owner(link) for link in self._netlink.links()}
        return {index: owner[1] for index, owner in owners.items() if owner and owner[0] == "proxy"}

    # The occasions to act

    def put_in_force(self, snapshot: Snapshot) -> None:
        """Makes node and kernel what a snapshot says.

        InvalidState when the node cannot do it, KernelError when the kernel refused; the former
        before anything was changed.
        """
        begun = time.monotonic()
        before = frozenset(self._have.workloads)
        links = self._netlink.links()
        there = {link.index for link in links}
        check_interfaces(
            snapshot,
            {link.name: link for link in links},
            lambda key, workload: self._workloads.obstacle(key, workload, there),
        )
        facts = NodeFacts(self._netlink.addresses(), self._config.node_traffic)
        compiled, numbers = self._compiler.compile(snapshot, self._numbers, facts)
        in_force = _InForce(snapshot, compiled, facts.addresses)
        self._refuse_overflow(in_force)
        self._keep_numbers(merge(self._numbers, numbers))
        self._ensure_proxies(
            {name: compiled.tenants[name] for name in sorted(tenants_with_proxy(snapshot))}
        )
        self._workloads.make(snapshot, links)
        self._in_force = in_force
        self._write()
        self._workloads.attach()
        self._release(snapshot, links, before)
        leaving = self._proxies.leaving()
        still = {name: n for name, n in self._numbers.tenants.items() if name in leaving}
        self._keep_numbers(merge(Numbers(tenants=still), numbers))
        self._record(time.monotonic() - begun)

    def keep_proxies(self) -> None:
        """Looks after the proxies that an earlier agent has left, while there is no snapshot that
        could be put in force."""
        names = {number: name for name, number in self._numbers.tenants.items()}
        if self._in_force is None:
            self._ensure_proxies(
                {
                    names[number]: number
                    for number, row in self._have.tenants.items()
                    if row.proxy and number in names
                }
            )

    def proxies_changed(self) -> None:
        """A proxy began or ceased to serve, or has gone: its rows follow."""
        self._follow_readiness()
        if self._in_force is not None:
            self._write()

    def resync(self) -> None:
        """Mends what was changed behind the agent's back: interfaces, filters, addresses."""
        self._proxies.mend()
        if self._in_force is None:
            return
        if self._netlink.addresses() != self._in_force.node_addresses:
            self.put_in_force(self._in_force.snapshot)
            return
        self._workloads.mend()
        self._write()

    # Steps

    def _refuse_overflow(self, in_force: _InForce) -> None:
        """The interfaces of workloads still to be wired have no number yet: any will do."""
        stand_in = {
            key: Wired(-1 - at, "", "") for at, key in enumerate(in_force.snapshot.workloads)
        }
        wired = self._workloads.wired
        stand_in |= {key: wired[key] for key in wired.keys() & stand_in.keys()}
        want = self._checked_rows.rows(
            in_force.snapshot, in_force.compiled, Observed(in_force.node_addresses, stand_in, {})
        )
        capacities = self._tables.capacities()
        needed = overflow(self._have if wired else Rows(), want, capacities)
        if needed is not None:
            capacity = capacities[needed[0]]
            raise check_capacity(in_force.snapshot, in_force.compiled, needed, capacity)

    def _keep_numbers(self, numbers: Numbers) -> None:
        """On disk before anything in the kernel uses them."""
        if numbers != self._kept:
            write_numbers(self._config.state_dir, numbers.to_json())
        self._numbers = self._kept = numbers

    def _ensure_proxies(self, numbers: Mapping[str, int]) -> None:
        """Has them listen before anything is redirected to them. Those that turn out not to serve
        are told to the kernel at once, whatever the others take."""
        self._proxies.ensure(numbers)
        self._proxies.await_ready(self._follow_readiness)

    def _follow_readiness(self) -> None:
        """Brings the kernel's word on who serves up to date, in the rows that stand there."""
        ready, wired = self._proxies.readiness(), self._proxies.wired
        put = {}
        for name, number in self._numbers.tenants.items():
            row = self._have.tenants.get(number)
            if row is None or name not in ready or name not in wired:
                continue
            serves = ready[name] and row.proxy == wired[name].index
            if row.ready != serves:
                put[number] = row._replace(ready=serves)
        if put:
            self._tables.apply(Plan((Change("tenants", put=put),), False))
            self._have = replace(self._have, tenants={**self._have.tenants, **put})

    def _serving(self, wired: Mapping[str, Wired]) -> frozenset[str]:
        """Tenants whose proxy serves; one that has yet to answer is taken for what its row says."""
        ready = self._proxies.readiness()
        rows, numbers = self._have.tenants, self._numbers.tenants
        serving = set()
        for name in wired:
            row = rows.get(numbers.get(name, 0))
            before = row is not None and row.ready and row.proxy == wired[name].index
            if ready.get(name, before):
                serving.add(name)
        return frozenset(serving)

    def _write(self) -> None:
        """Brings the kernel's rows to what is in force and observed now."""
        assert self._in_force is not None
        snapshot = self._in_force.snapshot
        workloads = {
            key: wired for key, wired in self._workloads.wired.items() if key in snapshot.workloads
        }
        proxies = self._proxies.wired
        observed = Observed(
            self._in_force.node_addresses, workloads, proxies, self._serving(proxies)
        )
        want = self._rows.rows(snapshot, self._in_force.compiled, observed)
        try:
            self._tables.apply(plan(self._have, want))
            self._tables.finish()  # what an agent had begun that was killed
        except KernelError:
            self._have = self._tables.read()  # part of it was written
            raise
        self._have = want

    def _release(self, snapshot: Snapshot, links: Sequence[Link], before: frozenset[int]) -> None:
        """Lets go of interfaces and proxies that are wanted no more, their rows gone already."""
        self._workloads.release(snapshot, links, before)
        needed = tenants_with_proxy(snapshot)
        used = {wired.index for wired in self._proxies.wired.values()}
        used |= {wired.index for wired in self._workloads.wired.values()}
        for link in links:
            kind, name = self._wiring.owner(link) or ("", "")
            if kind == "proxy" and name not in needed:
                self._proxies.remove(name)
            elif kind == "unfinished" and link.index not in used:
                self._netlink.delete_link(link.index)

    # What is left on disk

    def _record(self, seconds: float) -> None:
        """Leaves on disk what the numbers in the kernel mean."""
        assert self._in_force is not None
        snapshot, compiled = self._in_force.snapshot, self._in_force.compiled
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
            workloads=self._workloads.states(compiled),
        )
        write_state(self._config.state_dir, self._state)

    def record_problems(self, problems: tuple[str, ...]) -> None:
        """Leaves on disk why the newest snapshot is not in force."""
        if problems != self._state.problems:
            self._state = replace(self._state, problems=problems)
            write_state(self._config.state_dir, self._state)

    @property
    def state(self) -> NodeState:
        """What was last left on disk."""
        return self._state
