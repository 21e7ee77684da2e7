"""A node between a client and a server, each a network namespace, filtered by one means or none.

Called by the benchmarks. All places are wired alike, by the agent's own wiring: a veth pair each,
static neighbours, routes. Only what judges the packets differs.
"""

from __future__ import annotations

import shutil
import socket
import struct
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from pyagent.kernel.namespaces import entered
from pyagent.kernel.netlink import Hook, Netlink
from pyagent.kernel.wiring import Wiring, attach, wire_workload
from pyagent.plan import Wired
from tests.bench import cluster, rulesets
from tests.bench.agent import Agent
from tests.bench.frames import Ends
from tests.netns.node import Netns

_NETLINK_NETFILTER = 12
_DELETE_CONNECTIONS = (1 << 8) | 2  # NFNL_SUBSYS_CTNETLINK, IPCTNL_MSG_CT_DELETE


class Place:
    """The three namespaces; client and server are workloads of the cluster of that `size`."""

    def __init__(self, name: str, size: cluster.Size) -> None:
        self.name, self.size = name, size
        client, server, pod = cluster.probe(size)
        self.client_address, self.server_address = client.v4(pod), server.v4(pod)
        with ExitStack() as stack:
            folder = Path(tempfile.mkdtemp(prefix="sluice-bench-"))
            stack.callback(shutil.rmtree, folder)
            self.state_dir = folder / "state"
            self.state_dir.mkdir()
            tag = folder.name.rpartition("-")[2]
            self.node, self.client, self.server = (Netns(f"bench-{r}-{tag}") for r in "ncs")
            for namespace in (self.node, self.server, self.client):
                stack.callback(namespace.close)
            self.node.run("sysctl", "-qw", "net.ipv4.ip_forward=1")
            self.client_wired = self._wire(self.client, client, pod)
            self.server_wired = self._wire(self.server, server, pod)
            self.wired = {
                app.at * size.pods + pod: wired
                for app, wired in ((client, self.client_wired), (server, self.server_wired))
            }
            self._stack = stack.pop_all()

    def _wire(self, host: Netns, app: cluster.App, pod: int) -> Wired:
        addresses = (app.v4(pod), app.v6(pod))
        wiring = Wiring(self.state_dir)
        with entered(self.node.path), Netlink() as netlink:
            return wire_workload(netlink, wiring, app.key(pod), host.path, addresses, {}, {})

    @property
    def there(self) -> Ends:
        """For frames that the client sends to the server."""
        macs = (self.client_wired.mac, self.client_wired.node_mac)
        return Ends(macs, (self.client_address, self.server_address))

    @property
    def back(self) -> Ends:
        """For the server's answers."""
        macs = (self.server_wired.mac, self.server_wired.node_mac)
        return Ends(macs, (self.server_address, self.client_address))

    def forget(self) -> None:
        """Forgets every tracked connection."""

    def close(self) -> None:
        """Takes everything away."""
        self._stack.close()


class Sluice(Place):
    """Filtered by Sluice's programs; the events are read as the agent reads them."""

    def __init__(self, name: str, size: cluster.Size, manifests: Path) -> None:
        super().__init__(name, size)
        with self._stack as stack:
            self.agent = Agent(self.state_dir, manifests, size)
            stack.callback(self.agent.close)
            self.agent.put_in_force(self.wired)
            self.rows = len(self.agent.tables.read().policy)
            self._attach()
            reader = [sys.executable, "-m", "tests.bench.event_reader", str(self.state_dir)]
            process = self.node.start(*reader)
            stack.callback(process.kill)
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n", process.stdout.read()
            self._stack = stack.pop_all()

    def _attach(self) -> None:
        fds = self.agent.programs.fds
        hooks = {
            Hook.INGRESS: (fds["from_workload"], "from_workload"),
            Hook.EGRESS: (fds["to_workload"], "to_workload"),
        }
        with entered(self.node.path), Netlink() as netlink:
            for wired in self.wired.values():
                attach(netlink, wired.index, hooks)

    def forget(self) -> None:
        """Forgets every flow."""
        conntrack = self.agent.tables["conntrack"].map
        for key, _ in list(conntrack.entries()):
            conntrack.delete(key)


class Netfilter(Place):
    """Filtered by a ruleset that `command` reads from its standard input."""

    def __init__(self, name: str, size: cluster.Size, command: list[str], rules: str) -> None:
        super().__init__(name, size)
        with self._stack as stack:
            done = subprocess.run(
                self.node.command(*command), input=rules, capture_output=True, text=True
            )
            assert done.returncode == 0, done.stderr
            self._stack = stack.pop_all()

    def forget(self) -> None:
        """Forgets every connection: a request to delete that names none."""
        with entered(self.node.path):
            netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER)
        with netlink:
            flags = 1 | 4  # NLM_F_REQUEST, NLM_F_ACK
            netlink.send(struct.pack("=IHHIIBBH", 20, _DELETE_CONNECTIONS, flags, 1, 0, 0, 0, 0))
            error = struct.unpack_from("=i", netlink.recv(4096), 16)[0]
        assert error == 0, f"nf_conntrack was not emptied: {error}"


def nftables(name: str, size: cluster.Size) -> Place:
    """The cluster's policies in nftables."""
    return Netfilter(name, size, ["nft", "-f", "-"], rulesets.nftables(size))


def iptables(name: str, size: cluster.Size) -> Place:
    """The cluster's policies in iptables, the older of its two kinds: it judges faster."""
    return Netfilter(name, size, ["iptables-legacy-restore"], rulesets.iptables(size))
