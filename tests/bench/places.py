"""A node between a client and a server, each a network namespace, filtered by one means or none.

Called by the benchmarks. All places are wired alike, with the agent's own wiring: a veth pair
each, static neighbours, routes. Only what judges the packets differs.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from pyagent.kernel.namespaces import entered
from pyagent.kernel.netlink import Hook, Netlink
from pyagent.kernel.wiring import Wiring, attach, wire_workload
from pyagent.plan import Wired
from tests.bench import cluster, rulesets
from tests.bench.agent import Agent
from tests.netns.node import Netns


class Place:
    """The three namespaces; `size` is the cluster that client and server are part of."""

    def __init__(self, name: str, size: cluster.Size) -> None:
        self.name, self.size = name, size
        self._folder = Path(tempfile.mkdtemp(prefix="sluice-bench-"))
        self.state_dir = self._folder / "state"
        self.state_dir.mkdir()
        tag = self._folder.name.rpartition("-")[2]
        self.node, self.client, self.server = (
            Netns(f"{role}-{tag}") for role in ("bench-n", "bench-c", "bench-s")
        )
        self.node.run("sysctl", "-qw", "net.ipv4.ip_forward=1")
        self.node.run("ip", "link", "set", "lo", "up")
        client, server, pod = cluster.probe(size)
        self.numbers = [app.at * size.pods + pod for app in (client, server)]
        self.client_address, self.server_address = client.v4(pod), server.v4(pod)
        keys = (client.key(pod), server.key(pod))
        with entered(self.node.path), Netlink() as netlink:
            self.client_wired, self.server_wired = (
                wire_workload(
                    netlink, Wiring(self.state_dir), key, host.path, addresses, {}, {}
                )
                for key, host, addresses in (
                    (keys[0], self.client, (client.v4(pod), client.v6(pod))),
                    (keys[1], self.server, (server.v4(pod), server.v6(pod))),
                )
            )

    @property
    def wired(self) -> dict[int, Wired]:
        """The two real interfaces by their workloads' numbers in the cluster."""
        return dict(zip(self.numbers, (self.client_wired, self.server_wired), strict=True))

    def forget(self) -> None:
        """Forgets every tracked connection."""

    def close(self) -> None:
        """Takes everything away."""
        for namespace in (self.client, self.server, self.node):
            namespace.close()
        shutil.rmtree(self._folder)


class Sluice(Place):
    """Filtered by Sluice's programs; the events are read as the agent reads them."""

    def __init__(self, name: str, size: cluster.Size, manifests: Path) -> None:
        super().__init__(name, size)
        self.agent = Agent(self.state_dir, manifests, size)
        self.agent.put_in_force(self.wired)
        self.rows = len(self.agent.tables.read().policy)
        fds = self.agent.programs.fds
        hooks = {
            Hook.INGRESS: (fds["from_workload"], "from_workload"),
            Hook.EGRESS: (fds["to_workload"], "to_workload"),
        }
        with entered(self.node.path), Netlink() as netlink:
            for wired in (self.client_wired, self.server_wired):
                attach(netlink, wired.index, hooks)
        reader = [sys.executable, "-m", "tests.bench.event_reader", str(self.state_dir)]
        self._reader = self.node.start(*reader)
        assert self._reader.stdout is not None
        assert self._reader.stdout.readline() == "ready\n"

    def forget(self) -> None:
        """Forgets every flow."""
        conntrack = self.agent.tables["conntrack"].map
        for key, _ in list(conntrack.entries()):
            conntrack.delete(key)

    def close(self) -> None:
        """Takes everything away."""
        self._reader.kill()
        self._reader.wait(10)
        self.agent.close()
        super().close()


class Netfilter(Place):
    """Filtered by a ruleset that `command` reads from its standard input."""

    def __init__(self, name: str, size: cluster.Size, command: list[str], rules: str) -> None:
        super().__init__(name, size)
        done = subprocess.run(
            self.node.command(*command), input=rules, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr

    def forget(self) -> None:
        """Forgets every connection: IPCTNL_MSG_CT_DELETE without attributes."""
        from tests.bench.flood import flush_conntrack

        flush_conntrack(self.node.path)


def nftables(size: cluster.Size) -> Place:
    """The cluster's policies in nftables."""
    return Netfilter("nftables", size, ["nft", "-f", "-"], rulesets.nftables(size))


def iptables(size: cluster.Size) -> Place:
    """The cluster's policies in iptables: the older of its two kinds, which judges faster."""
    command = "iptables-legacy-restore"
    return Netfilter("iptables", size, [command], rulesets.iptables(size))
