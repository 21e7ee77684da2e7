"""The demo's small world: a node, its workloads, their servers, and the real agent.

Called by `run` and the command line. Everything is a network namespace of this machine; the
agent is started as anybody would start it. `remains` takes it all away again.
"""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from pyagent.agent.reconciler import tenants_with_proxy
from pyagent.demo import places
from pyagent.demo.attempts import NODE, SERVERS, WORKLOADS, Addresses
from pyagent.errors import KernelError, SluiceError
from pyagent.kernel import pins
from pyagent.kernel.netlink import Netlink, create_namespace, namespace_path
from pyagent.kernel.tables import Tables
from pyagent.manifests import load_directory
from pyagent.manifests.files import is_manifest_name
from pyagent.model import Address, Snapshot
from pyagent.state import NodeState, read_state

_PAUSE = 0.02
_IN_FORCE_WITHIN = 60.0  # seconds; the programs may have to be compiled
_LISTEN_WITHIN = 30.0
_PROXIES_WITHIN = 15.0


def wait_for(condition: Callable[[], bool], seconds: float) -> bool:
    """Whether the condition came true within so many seconds."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(_PAUSE)
    return True


class World:
    """Everything the demo plays with. The constructor reads; `build` makes."""

    def __init__(self, manifests: Path) -> None:
        """Reads and checks the manifests. InvalidState, or SluiceError when they don't fit."""
        self._source = manifests
        snapshot = load_directory(manifests)
        self.namespaces = _namespaces_of(snapshot, manifests)
        self.addresses = _addresses_of(snapshot, manifests)
        self.tenants = sorted(tenants_with_proxy(snapshot))
        self._agent: subprocess.Popen[bytes] | None = None
        self._servers: dict[str, subprocess.Popen[bytes]] = {}

    # Making it

    def build(self) -> None:
        """Makes the namespaces and puts the manifests and the configuration in place."""
        make_node()
        for namespace in self.namespaces.values():
            create_namespace(namespace)
        places.MANIFESTS.mkdir()
        for path in self._source.iterdir():
            if is_manifest_name(path.name) and path.is_file():
                shutil.copyfile(path, places.MANIFESTS / path.name)
        write_config()

    def start_servers(self) -> None:
        """Starts the workloads' servers; they are not ready yet."""
        for workload, ports in SERVERS.items():
            command = (sys.executable, "-m", places.SERVER, *ports)
            log = _server_log(workload)
            self._servers[workload] = places.start(self.namespaces[workload], command, log)

    def await_servers(self) -> None:
        """Returns when all servers listen. SluiceError with a server's last words."""
        deadline = time.monotonic() + _LISTEN_WITHIN
        waiting = dict(self._servers)
        while waiting:
            for workload, server in tuple(waiting.items()):
                log = _server_log(workload)
                if "ready" in log.read_text(errors="replace").splitlines():
                    del waiting[workload]
                elif server.poll() is not None or time.monotonic() > deadline:
                    raise SluiceError(f"the server of {workload} does not start: {last_line(log)}")
            time.sleep(_PAUSE)

    # The agent

    def start_agent(self) -> NodeState:
        """Starts the agent; returns when the manifests are in force and the proxies serve.

        SluiceError when it refuses them, ends, or takes too long.
        """
        command = (places.sluice(), "agent", "--config", str(places.CONFIG))
        agent = places.start(places.NODE_NAMESPACE, command, places.AGENT_LOG)
        self._agent = agent
        if not wait_for(lambda: self._settled(agent), _IN_FORCE_WITHIN):
            raise SluiceError(f"the agent is late: its log says: {last_line(places.AGENT_LOG)}")
        state = read_state(places.STATE)
        assert state is not None
        if state.problems:
            raise SluiceError(f"the agent refused the manifests: {state.problems[0]}")
        wait_for(_proxies_ready, _PROXIES_WITHIN)  # if they are not, the table shows it
        return state

    def _settled(self, agent: subprocess.Popen[bytes]) -> bool:
        if agent.poll() is not None:
            words = last_line(places.AGENT_LOG)
            raise SluiceError(f"the agent has ended at once: its log says: {words}")
        state = read_state(places.STATE)
        mine = state is not None and state.pid == agent.pid
        return mine and bool(state.applied or state.problems)  # type: ignore[union-attr]

    @property
    def agent_pid(self) -> int:
        """The running agent's pid."""
        assert self._agent is not None
        return self._agent.pid

    def kill_agent(self) -> None:
        """SIGKILL, and waits until the agent is gone."""
        assert self._agent is not None
        self._agent.send_signal(signal.SIGKILL)
        self._agent.wait(10)

    # Processes in it

    def namespace(self, who: str) -> str:
        """The network namespace of a workload, or of the node."""
        return places.NODE_NAMESPACE if who == NODE else self.namespaces[who]


def _server_log(workload: str) -> Path:
    return places.DIRECTORY / f"server-{workload.replace('/', '-')}.log"


def last_line(log: Path) -> str:
    """The last line of a log that says something."""
    text = log.read_text(errors="replace") if log.exists() else ""
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1].strip() if lines else "nothing"


def _proxies_ready() -> bool:
    try:
        with Tables(pins.pin_directory(places.STATE)) as tables:
            rows = tables.read().tenants.values()
    except KernelError:
        return False
    return all(row.ready for row in rows if row.proxy)


def _namespaces_of(snapshot: Snapshot, manifests: Path) -> dict[str, str]:
    """Every workload's namespace, which the demo makes; one of somebody else's is refused."""
    found = {}
    for key, workload in snapshot.workloads.items():
        path = Path(workload.netns or "/")
        if path.parent != namespace_path("") or not path.name.startswith(places.PREFIX):
            wanted = namespace_path(f"{places.PREFIX}NAME")
            raise SluiceError(f"{manifests}: workload {key}: the demo needs spec.netns {wanted}")
        if path.name == places.NODE_NAMESPACE:
            raise SluiceError(f"{manifests}: workload {key}: {path} is the demo's node")
        found[key] = path.name
    return found


def _addresses_of(snapshot: Snapshot, manifests: Path) -> Addresses:
    """The addresses that attempts use: the first of each version, of workloads and node."""
    found: dict[str, Mapping[int, Address]] = {NODE: places.NODE_ADDRESSES}
    for name in sorted(WORKLOADS):
        workload = snapshot.workloads.get(name)
        if workload is None:
            raise SluiceError(f"{manifests}: the demo needs a workload {name}")
        own: dict[int, Address] = {
            address.version: address for address in reversed(workload.addresses)
        }
        if len(own) != 2:
            raise SluiceError(f"{manifests}: workload {name}: the demo needs IPv4 and IPv6")
        found[name] = own
    return found


def make_node() -> None:
    """The node's namespace with its addresses, forwarding; again is the same."""
    create_namespace(places.NODE_NAMESPACE)
    with Netlink(str(namespace_path(places.NODE_NAMESPACE))) as netlink:
        loopback = netlink.link("lo")
        assert loopback is not None
        netlink.set_up(loopback.index)
        for address in places.NODE_ADDRESSES.values():
            netlink.add_address(loopback.index, address)
    settings = " ".join(("ipv4/ip_forward", "ipv6/conf/all/forwarding"))
    script = f"cd /proc/sys/net && for name in {settings}; do echo 1 > $name || exit 1; done"
    done = places.run(places.NODE_NAMESPACE, ("sh", "-c", script), 10.0)
    if done.returncode:
        raise SluiceError(f"the node cannot forward: {done.stderr.strip()}")


def write_config() -> None:
    """The agent's configuration. JSON is YAML."""
    spec = {
        "node": "demo",
        "source": {"directory": str(places.MANIFESTS)},
        "stateDir": str(places.STATE),
        "runDir": str(places.RUN),
        "metrics": {"address": places.METRICS},
    }
    document = {"apiVersion": "sluice.dev/v1alpha1", "kind": "AgentConfig", "spec": spec}
    places.CONFIG.write_text(json.dumps(document, indent=2) + "\n")
