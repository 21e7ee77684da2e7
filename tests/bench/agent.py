"""The agent without its interfaces: everything real but the node.

Called by `agent_cost` and by `places`. Source, reconciler, compiler, plan and maps are the
agent's own; a cluster's thousands of interfaces are stood in for, so that a benchmark at full size
does not have to make them. Those that a benchmark has made are told by `wired`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from ipaddress import ip_address
from pathlib import Path

from pyagent.agent.reconciler import Reconciler
from pyagent.config import AgentConfig
from pyagent.kernel import loader, pins
from pyagent.kernel.netlink import Hook, Link, Netlink
from pyagent.kernel.tables import Tables
from pyagent.kernel.wiring import Wiring
from pyagent.model import Address
from pyagent.plan import Plan, Wired
from pyagent.proxies import PROXY_PORT, Proxies
from pyagent.sources.directory import DirectorySource
from pyagent.state import NodeState
from tests.bench import cluster

NODE_ADDRESSES = frozenset((ip_address("10.200.0.1"), ip_address("fd00:200::1")))
_FIRST_INDEX = 100_000  # above those of interfaces that exist


class StandIn(Netlink):
    """A node that says it has every interface of a cluster."""

    def __init__(self, size: cluster.Size) -> None:
        self.where = "stand-in"
        self._links: dict[int, Link] = {}
        self._inner: dict[int, str] = {}  # MACs of the workloads' ends, by interface
        for number in range(size.namespaces * size.apps * size.pods):
            tail = f"{number:08x}"
            macs = [
                f"{first}:51:" + ":".join(tail[i : i + 2] for i in range(0, 8, 2))
                for first in ("02", "06")
            ]
            self.stand_in(number, Wired(_FIRST_INDEX + number, macs[0], macs[1]))

    def stand_in(self, number: int, wired: Wired) -> None:
        """The interface of the cluster's workload with that number is this one."""
        name = cluster.interface(number)
        self._links[number] = Link(
            wired.index, name, wired.node_mac, "veth", "", True, peer_index=2, peer_namespace=1
        )
        self._inner[wired.index] = wired.mac

    def close(self) -> None:
        """Nothing is open."""

    def links(self) -> tuple[Link, ...]:
        """All of them."""
        return tuple(self._links.values())

    def addresses(self, index: int | None = None) -> frozenset[Address]:
        """The node's own."""
        return NODE_ADDRESSES

    def peer_mac(self, link: Link) -> str | None:
        """Of the workload's end."""
        return self._inner[link.index]

    def attached(self, index: int) -> dict[Hook, int]:
        """None."""
        return {}

    def attach(self, index: int, hook: Hook, program: int, name: str) -> None:
        """The benchmark attaches what it needs."""


class TimedTables(Tables):
    """Notes when the writes of a plan began and ended, and how many they were."""

    began = ended = 0.0
    writes = 0

    def apply(self, plan: Plan) -> None:
        """Carries it out."""
        self.began = time.perf_counter()
        super().apply(plan)
        self.ended = time.perf_counter()
        self.writes = plan.writes


class Agent:
    """An agent's parts with a state directory of their own."""

    def __init__(self, state_dir: Path, manifests: Path, size: cluster.Size) -> None:
        self._state_dir = state_dir
        config = AgentConfig("bench", manifests, state_dir, state_dir)
        self.pins = pins.mount(state_dir)
        begun = time.perf_counter()
        self.programs = loader.load(self.pins, config.map_sizes, PROXY_PORT)
        self.load_seconds = time.perf_counter() - begun
        self.tables = TimedTables(self.pins)
        self.netlink = StandIn(size)
        # No tenant of the cluster needs a proxy, so none is started and the folder stays unused.
        self._proxies = Proxies(
            Wiring(state_dir), self.programs.fds, state_dir / "cgroup", lambda *_: None
        )
        self.reconciler = Reconciler(
            config,
            self.netlink,
            self.programs.fds,
            self.tables,
            self._proxies,
            NodeState(config.node, "bench", 0, 0.0),
        )
        self.source = DirectorySource(manifests)

    def put_in_force(self, wired: Mapping[int, Wired]) -> None:
        """What the manifests say, with these workloads, by number, behind real interfaces."""
        for number, real in wired.items():
            self.netlink.stand_in(number, real)
        self.reconciler.put_in_force(self.source.snapshot())

    def close(self) -> None:
        """Takes programs and maps away; what is attached lives until its interface goes."""
        self._proxies.close()
        self.tables.close()
        self.programs.close()
        pins.unmount(self._state_dir)
