"""A node of its own for a test: a network namespace, an agent in it, and workloads around it.

Names are unique, so that tests can run side by side; `Node.close` leaves nothing behind. What a
test waits for is a condition with a bound, never a time.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from pyagent.kernel import pins
from pyagent.kernel.tables import Tables
from pyagent.state import NodeState, read_state

SLUICE = (str(Path(sys.executable).with_name("sluice")),)
ROOT = Path(__file__).parents[2]


def wait_for(condition: Callable[[], Any], what: object, timeout: float = 10.0) -> Any:
    """The condition's first true value; fails, naming `what`, when it stays away."""
    deadline = time.monotonic() + timeout
    while True:
        found = condition()
        if found:
            return found
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {timeout:g} s in vain for {what}")
        time.sleep(0.005)


def ip(*arguments: str) -> str:
    """Runs `ip`; fails with what it said."""
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True)
    assert done.returncode == 0, f"ip {' '.join(arguments)}: {done.stderr}"
    return done.stdout


class Netns:
    """A named network namespace and the processes that the test started in it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.path = f"/run/netns/{name}"
        self.processes: list[subprocess.Popen[str]] = []
        ip("netns", "add", name)

    def command(self, *command: str) -> list[str]:
        """The command, put into the namespace (unlike `ip netns exec`, with the same mounts)."""
        return ["nsenter", f"--net={self.path}", "--", *command]

    def run(self, *command: str, timeout: float = 30.0) -> subprocess.CompletedProcess[str]:
        """Runs to its end; the caller looks at the result."""
        return subprocess.run(
            self.command(*command), capture_output=True, text=True, timeout=timeout, cwd=ROOT
        )

    def start(self, *command: str, **options: Any) -> subprocess.Popen[str]:
        """Starts in the background; ended with the namespace."""
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True} | options
        process = subprocess.Popen(self.command(*command), cwd=ROOT, **options)
        self.processes.append(process)
        return process

    def serve(
        self, *, http: Sequence[int] = (), tcp: Sequence[int] = (), udp: Sequence[int] = ()
    ) -> None:
        """Starts the demo's server and waits until it listens."""
        ports = [
            word
            for kind, numbers in (("http", http), ("tcp", tcp), ("udp", udp))
            for number in numbers
            for word in (f"--{kind}", str(number))
        ]
        process = self.start(sys.executable, "-m", "pyagent.demo.server", *ports)
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line == "ready\n", line + process.stdout.read()

    def curl(self, url: str, *options: str, timeout: float = 2.0) -> tuple[int, str]:
        """HTTP status and body; status 0 when there was no answer."""
        done = self.run("curl", "-sS", "-m", str(timeout), "-w", "\n%{http_code}", *options, url)
        body, _, code = done.stdout.rpartition("\n")
        return int(code or 0), body

    def socket(
        self, family: socket.AddressFamily, kind: socket.SocketKind, protocol: int = 0
    ) -> socket.socket:
        """A socket of the test's own process that lives in this namespace."""
        before = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        inside = os.open(self.path, os.O_RDONLY)
        try:
            _setns(inside)
            return socket.socket(family, kind, protocol)
        finally:
            _setns(before)
            os.close(before)
            os.close(inside)

    def close(self) -> None:
        """Ends its processes and removes the namespace."""
        for process in self.processes:
            if process.poll() is None:
                process.kill()
            process.wait(10)
            if process.stdout is not None:
                process.stdout.close()
        ip("netns", "del", self.name)


def _setns(descriptor: int) -> None:
    import ctypes

    assert ctypes.CDLL(None, use_errno=True).setns(descriptor, 0x40000000) == 0


def workload(
    host: Netns, namespace: str, name: str, addresses: Sequence[str], **spec: Any
) -> dict[str, Any]:
    """A Workload manifest of the `netns` form."""
    return {
        "apiVersion": "sluice.dev/v1alpha1",
        "kind": "Workload",
        "metadata": {"name": name, "namespace": namespace, "labels": {"app": name}},
        "spec": {"netns": host.path, "addresses": list(addresses)} | spec,
    }


def tenant(name: str, *ports: int, failure_mode: str = "closed") -> dict[str, Any]:
    """A Tenant manifest that hands these ports off."""
    return {
        "apiVersion": "sluice.dev/v1alpha1",
        "kind": "Tenant",
        "metadata": {"name": name},
        "spec": {"failureMode": failure_mode, "http": [{"port": port} for port in ports]},
    }


def policy(namespace: str, name: str, **spec: Any) -> dict[str, Any]:
    """A NetworkPolicy manifest."""
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"podSelector": {}} | spec,
    }


class Node(Netns):
    """A node with its agent. Addresses 10.200.0.1 and fd00:200::1 are the node's own."""

    def __init__(self) -> None:
        self.tag = secrets.token_hex(3)
        super().__init__(f"node-{self.tag}")
        self.hosts: list[Netns] = []
        self.agent: subprocess.Popen[str] | None = None
        self._folder = tempfile.TemporaryDirectory(prefix="sluice-test-")
        folder = Path(self._folder.name)
        folder.chmod(0o755)  # proxies are no root
        self.state_dir, self.run_dir = folder / "state", folder / "run"
        self.manifests, self.config, self.log = (
            folder / "manifests",
            folder / "agent.yaml",
            folder / "agent.log",
        )
        self.manifests.mkdir()
        self.configure()
        for command in (
            "ip link set lo up",
            "ip addr add 10.200.0.1/32 dev lo",
            "ip addr add fd00:200::1/128 dev lo nodad",
            "sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1",
        ):
            assert self.run(*command.split()).returncode == 0, command

    def configure(self, **spec: Any) -> None:
        """Writes the agent's configuration, for its next start."""
        spec = {
            "node": self.name,
            "source": {"directory": str(self.manifests)},
            "stateDir": str(self.state_dir),
            "runDir": str(self.run_dir),
            "metrics": {"address": "127.0.0.1:9464"},
        } | spec
        document = {"apiVersion": "sluice.dev/v1alpha1", "kind": "AgentConfig", "spec": spec}
        document["metadata"] = {"name": "test"}
        self.config.write_text(yaml.safe_dump(document))

    def host(self, name: str) -> Netns:
        """A namespace for a workload, closed with the node."""
        host = Netns(f"{name}-{self.tag}")
        self.hosts.append(host)
        return host

    # Manifests

    def write(self, file: str, *documents: dict[str, Any]) -> None:
        """Replaces one manifest file, as an editor does: by rename."""
        temporary = self.manifests / f".{file}.new"
        temporary.write_text(yaml.safe_dump_all(documents))
        temporary.replace(self.manifests / file)

    def apply(self, file: str, *documents: dict[str, Any]) -> NodeState:
        """`write`, then waits until the agent has put it in force; fails when it refuses."""
        before = self.state
        self.write(file, *documents)
        return self.wait_applied(before)

    def wait_applied(self, before: NodeState | None, timeout: float = 20.0) -> NodeState:
        """Waits for a state that was put in force after `before`; fails when it is refused."""

        def applied() -> NodeState | None:
            now = self.state
            if self.agent is not None and self.agent.poll() is not None:
                raise AssertionError(f"the agent has ended:\n{self.read_log()}")
            if now is not None and now.problems and now != before:
                raise AssertionError(f"refused: {now.problems}")
            return now if now and now.applied > (before.applied if before else 0.0) else None

        try:
            state: NodeState = wait_for(applied, "the agent", timeout)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.read_log()}") from None
        return state

    # The agent

    @property
    def state(self) -> NodeState | None:
        """What the agent has left on disk."""
        return read_state(self.state_dir)

    def start_agent(self, wait: bool = True) -> subprocess.Popen[str]:
        """Starts the agent; waits until it has put the manifests in force."""
        before = self.state
        with self.log.open("a") as log:
            command = self.command(*SLUICE, "agent", "--config", str(self.config))
            self.agent = subprocess.Popen(command, stdout=log, stderr=log, text=True, cwd=ROOT)
        if wait:
            self.wait_applied(before)
        return self.agent

    def stop_agent(self, how: signal.Signals = signal.SIGTERM) -> int:
        """Ends the agent by a signal; its exit status."""
        assert self.agent is not None
        self.agent.send_signal(how)
        status = self.agent.wait(20)
        self.agent = None
        return status

    def read_log(self) -> str:
        """What the agent has logged."""
        return self.log.read_text() if self.log.exists() else ""

    def sluice(self, *arguments: str, timeout: float = 60.0) -> subprocess.CompletedProcess[str]:
        """The command line, with this node's configuration."""
        environment = os.environ | {"SLUICE_CONFIG": str(self.config)}
        return subprocess.run(
            self.command(*SLUICE, *arguments),
            capture_output=True,
            text=True,
            timeout=timeout,
            cwd=ROOT,
            env=environment,
        )

    def tables(self) -> Tables:
        """The pinned maps; the caller closes them."""
        return Tables(pins.pin_directory(self.state_dir))

    def drops(self) -> dict[str, int]:
        """Dropped packets by reason."""
        from pyagent.kernel import abi

        found: dict[str, int] = {}
        with self.tables() as tables:
            for key, value in tables["counters"].records():
                reason = abi.load().name_of("DROP_REASONS", int(key["reason"]))
                if reason != "none":
                    found[reason] = found.get(reason, 0) + int(value["packets"])
        return found

    def proxy_pid(self, name: str) -> int | None:
        """Pid of a tenant's Envoy, or None."""
        record = self.sluice("proxy", "list", "-o", "json")
        for row in json.loads(record.stdout or "[]"):
            if row["tenant"] == name:
                return int(row["pid"]) if row["pid"] else None
        return None

    def close(self) -> None:
        """Ends everything that the test started, and lets the agent's own clean-up do the rest."""
        if self.agent is not None:
            with suppress(subprocess.TimeoutExpired, AssertionError):
                self.stop_agent()
            if self.agent is not None:
                self.agent.kill()
                self.agent.wait(10)
        done = self.sluice("cleanup")
        for host in self.hosts:
            host.close()
        super().close()
        self._folder.cleanup()
        assert done.returncode == 0, done.stderr
