"""The workloads' interfaces on this node: made or found, given their programs, mended, let go.

Called by the reconciler. The rows that speak of them are the reconciler's.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pyagent.compiler.rows import Compiled
from pyagent.errors import KernelError
from pyagent.kernel.namespaces import NamespaceId, namespace_id
from pyagent.kernel.netlink import Hook, Link, Netlink, network_of
from pyagent.kernel.wiring import Wiring, attach, obstacle, wire_workload
from pyagent.model import Network, Snapshot, Workload
from pyagent.plan import Wired
from pyagent.state import WorkloadState

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Place:
    """A wired workload. `namespace` is where its pair leads, None in the `interface` form."""

    workload: Workload
    wired: Wired
    interface: str
    namespace: NamespaceId | None


class Workloads:
    """The wired workloads of one agent, by "namespace/name"."""

    def __init__(self, netlink: Netlink, wiring: Wiring, programs: Mapping[str, int]) -> None:
        self._netlink = netlink
        self._wiring = wiring
        self._programs = {
            Hook.INGRESS: (programs["from_workload"], "from_workload"),
            Hook.EGRESS: (programs["to_workload"], "to_workload"),
        }
        self._places: dict[str, _Place] = {}
        self._attached: set[int] = set()  # interfaces that were there before, by index
        self._complaints: dict[str, str] = {}

    @property
    def wired(self) -> dict[str, Wired]:
        """Every wired workload."""
        return {key: place.wired for key, place in self._places.items()}

    def obstacle(self, key: str, workload: Workload, there: set[int]) -> str:
        """Why a workload's namespace cannot be wired, "" when it can; `there` are the indices of
        the node's interfaces."""
        if workload.netns is None or self._is_made(key, workload, there):
            return ""
        return obstacle(self._netlink, self._wiring, workload.netns)

    def make(self, snapshot: Snapshot, links: Sequence[Link]) -> None:
        """Wires namespaces, programs first, and notes interfaces that are there already.

        The latter get their programs from `attach`, once their rows stand: until then their
        traffic flows as before.
        """
        by_name = {link.name: link for link in links}
        there = {link.index for link in links}
        todo = []
        for key, workload in snapshot.workloads.items():
            if workload.netns is None:
                self._note(key, workload, by_name[workload.interface or ""])
            elif not self._is_made(key, workload, there):
                todo.append((key, workload))
        routes = self._netlink.routes() if todo else {}
        for key, workload in todo:
            self._wire(key, workload, routes)

    def _is_made(self, key: str, workload: Workload, there: set[int]) -> bool:
        place = self._places.get(key)
        if place is None or workload.netns is None or place.wired.index not in there:
            return False
        before = place.workload
        return (before.netns, before.addresses, place.namespace) == (
            workload.netns,
            workload.addresses,
            namespace_id(workload.netns),
        )

    def _wire(self, key: str, workload: Workload, routes: Mapping[int, frozenset[Network]]) -> None:
        assert workload.netns is not None
        wired = wire_workload(
            self._netlink,
            self._wiring,
            key,
            workload.netns,
            workload.addresses,
            self._programs,
            routes,
        )
        name = self._wiring.interface(self._wiring.workload_alias(key))
        self._places[key] = _Place(workload, wired, name, namespace_id(workload.netns))

    def _note(self, key: str, workload: Workload, link: Link) -> None:
        place = self._places.get(key)
        if (
            place is None
            or place.namespace is not None
            or (place.wired.index, place.wired.node_mac) != (link.index, link.mac)
        ):
            mac = self._netlink.peer_mac(link) or link.mac
            wired = Wired(link.index, mac, link.mac)
            self._places[key] = _Place(workload, wired, link.name, None)

    def attach(self) -> None:
        """Attaches the programs to interfaces that were there already."""
        for place in self._places.values():
            if place.namespace is None and place.wired.index not in self._attached:
                attach(self._netlink, place.wired.index, self._programs)
                self._attached.add(place.wired.index)

    def mend(self) -> None:
        """Looks at everything anew and makes good what was changed behind the agent's back.

        What cannot be mended is logged, once as long as it stays the same.
        """
        links = {link.index: link for link in self._netlink.links()}
        routes = self._netlink.routes()
        for key, place in tuple(self._places.items()):
            try:
                self._mend(key, place, links, routes)
                self._complaints.pop(key, None)
            except KernelError as error:
                if self._complaints.get(key) != str(error):
                    _log.warning("workload %s: %s", key, error)
                    self._complaints[key] = str(error)

    def _mend(
        self,
        key: str,
        place: _Place,
        links: Mapping[int, Link],
        routes: Mapping[int, frozenset[Network]],
    ) -> None:
        workload, index = place.workload, place.wired.index
        if place.namespace is None:
            link = self._netlink.link(place.interface)
            if link is None:
                raise KernelError(f"its interface {place.interface} is gone")
            mac = self._netlink.peer_mac(link) or link.mac
            wired = Wired(link.index, mac, link.mac)
            self._places[key] = _Place(workload, wired, link.name, None)
        else:
            wanted = {network_of(address) for address in workload.addresses}
            whole = index in links and links[index].up and routes.get(index, set()) == wanted
            if not whole or namespace_id(workload.netns or "") != place.namespace:
                self._wire(key, workload, routes)
        index = self._places[key].wired.index
        attach(self._netlink, index, self._programs)
        if place.namespace is None:
            self._attached.add(index)

    def release(self, snapshot: Snapshot, links: Sequence[Link], before: frozenset[int]) -> None:
        """Lets go of the interfaces that are wanted no more, their rows gone already.

        What an agent left that was killed half-way is known by the rows it wrote, `before`, and
        by its aliases.
        """
        for key in self._places.keys() - snapshot.workloads.keys():
            del self._places[key]
            self._complaints.pop(key, None)
        known = {place.wired.index for place in self._places.values()}
        self._attached &= known
        for link in links:
            if link.index in known:
                continue
            kind, _ = self._wiring.owner(link) or ("", "")
            if kind == "workload":
                self._netlink.delete_link(link.index)
            elif not kind and link.index in before:
                self._netlink.detach(link.index)

    def states(self, compiled: Compiled) -> tuple[WorkloadState, ...]:
        """What is told of each."""
        return tuple(
            WorkloadState(
                key=key,
                identity=compiled.workload_identity[key],
                tenant=compiled.workload_tenant[key],
                interface=place.interface,
                ifindex=place.wired.index,
                netns=place.workload.netns,
                addresses=tuple(str(address) for address in place.workload.addresses),
                labels=dict(place.workload.labels),
            )
            for key, place in sorted(self._places.items())
        )
