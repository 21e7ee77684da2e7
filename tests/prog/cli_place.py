"""A node for the tests of the reading commands: maps and state as an agent leaves them.

A small cluster is compiled and written as the agent would, beside a few flows and counters.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from pyagent.compiler import NodeFacts, Numbers, compile_snapshot
from pyagent.config import MapSizes, NodeTraffic
from pyagent.kernel import abi, loader, pins
from pyagent.kernel.tables import Tables
from pyagent.manifests import load_directory
from pyagent.plan import Observed, Rows, Wired, desired_rows, plan
from pyagent.state import NodeState, WorkloadState, lock_path, write_state

SLUICE = (sys.executable, "-c", "from pyagent.cli.main import main; main()")
MANY = 100_000
MANIFESTS = """\
apiVersion: sluice.dev/v1alpha1
kind: Tenant
metadata: {name: shop}
spec: {failureMode: open, http: [{port: 80}]}
---
apiVersion: sluice.dev/v1alpha1
kind: Workload
metadata: {name: web, namespace: shop, labels: {app: web}}
spec: {interface: veth-web, addresses: [10.1.0.2, "fd00:1::2"]}
---
apiVersion: sluice.dev/v1alpha1
kind: Workload
metadata: {name: db, namespace: shop, labels: {app: db}}
spec: {interface: veth-db, addresses: [10.1.0.3]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: to-db, namespace: shop}
spec:
  podSelector: {matchLabels: {app: db}}
  ingress:
    - from: [{podSelector: {matchLabels: {app: web}}}]
      ports: [{protocol: TCP, port: 5432}, {protocol: UDP, port: 6000, endPort: 6007}]
    - from: [{ipBlock: {cidr: 192.0.2.0/24}}]
"""
WIRED = {
    "shop/web": Wired(11, "02:00:00:00:00:0b", "02:00:00:00:01:0b"),
    "shop/db": Wired(12, "02:00:00:00:00:0c", "02:00:00:00:01:0c"),
}
FLOW_KEY: abi.Record = {
    "low": ip_address("10.1.0.2"),
    "high": ip_address("10.1.0.3"),
    "low_port": 40000,
    "high_port": 5432,
    "protocol": 6,
    "leg": 0,
}
FLOW: abi.Record = {
    "created": 2**60,
    "seen": 2**60 + 1,
    "packets": (5, 4),
    "bytes": (500, 400),
    "revision": 1,
    "rule": 0,
    "verdict": 1,
    "state": 1,
    "flags": 5,
}


@dataclass(frozen=True)
class Place:
    """One node's directories; its command line."""

    root: Path

    @property
    def state_dir(self) -> Path:
        return self.root / "state"

    @property
    def run_dir(self) -> Path:
        return self.root / "run"

    def prepare(self) -> Place:
        for folder in (self.state_dir, self.run_dir, self.root / "manifests"):
            folder.mkdir(parents=True)
            folder.chmod(0o711)
        (self.root / "agent.yaml").write_text(
            "apiVersion: sluice.dev/v1alpha1\nkind: AgentConfig\nspec:\n"
            f"  source: {{directory: manifests}}\n  stateDir: {self.state_dir}\n"
            f"  runDir: {self.run_dir}\n"
        )
        return self

    def sluice(self, *arguments: str, prefix: tuple[str, ...] = ()) -> tuple[int, str, str]:
        """Exit status, stdout, stderr."""
        done = subprocess.run(
            [*prefix, *SLUICE, *arguments, "--config", str(self.root / "agent.yaml")],
            env={**os.environ, "SLUICE_DEBUG": ""},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return done.returncode, done.stdout, done.stderr

    def json(self, *arguments: str) -> Any:
        status, out, errors = self.sluice(*arguments, "-o", "json")
        assert (status, errors) == (0, ""), errors
        return json.loads(out)

    def refusal(self, *arguments: str, status: int = 1) -> str:
        """The one line on stderr of a command that must fail and print nothing else."""
        done = self.sluice(*arguments)
        assert done[:2] == (status, ""), done
        [line] = done[2].splitlines()
        assert line.startswith("sluice: ")
        return line.removeprefix("sluice: ")


@contextmanager
def made_place() -> Iterator[Place]:
    """A node's directories; all that is in them is gone afterwards."""
    root = Path(tempfile.mkdtemp(prefix="sluice-cli-"))
    root.chmod(0o711)
    place = Place(root).prepare()
    try:
        yield place
    finally:
        pins.unmount(place.state_dir)
        shutil.rmtree(root)


@contextmanager
def loaded_place() -> Iterator[Place]:
    """A node with programs and maps of the real object, and rows of `MANIFESTS`."""
    with made_place() as place:
        folder = pins.mount(place.state_dir)
        sizes = MapSizes(workloads=64, tenants=8, conntrack=1024, policy=MANY + 10_000)
        loader.load(folder, sizes, 15001).close()
        with Tables(folder) as tables:
            state = fill(tables, place)
        write_state(place.state_dir, state)
        yield place


def fill(tables: Tables, place: Place) -> NodeState:
    """Writes what an agent and some traffic would; the state that such an agent leaves."""
    (place.root / "manifests" / "all.yaml").write_text(MANIFESTS)
    snapshot = load_directory(place.root / "manifests")
    node = frozenset({ip_address("10.0.0.1")})
    compiled, _ = compile_snapshot(snapshot, Numbers(), NodeFacts(node, NodeTraffic.ALLOW))
    proxies = {"shop": Wired(20, "02:00:00:00:00:14", "02:00:00:00:01:14")}
    observed = Observed(node, WIRED, proxies, frozenset({"shop"}))
    tables.apply(plan(Rows(), desired_rows(snapshot, compiled, observed)))
    rule = next(number for number, name in compiled.rules.items() if "ingress[0]" in name)
    tables["conntrack"].put(FLOW_KEY, {**FLOW, "rule": rule})
    for identity, reason, direction, packets in (
        (compiled.workload_identity["shop/web"], 0, 1, 7),
        (compiled.workload_identity["shop/db"], 0, 0, 5),
        (compiled.workload_identity["shop/db"], 10, 0, 3),
    ):
        key: abi.Record = {"identity": identity, "reason": reason, "direction": direction}
        tables["counters"].put(key, {"packets": packets, "bytes": 100 * packets})
    tables["stats"].put({"index": 0}, {"value": 4})
    for number in range(2, 8):  # with the one of `shop`: 7 of 8
        tables["tenants"].put({"tenant": number}, {"proxy": 0, "ready": 0})
    return NodeState(
        node="n1",
        version="9.9",
        pid=1,
        started=time.time() - 7200,
        applied=time.time() - 60,
        apply_seconds=0.012,
        counts={"workloads": 2, "policies": 1},
        rules=dict(compiled.rules),
        identities=dict(compiled.identity_labels),
        tenants={number: name for name, number in compiled.tenants.items()},
        workloads=tuple(
            WorkloadState(
                key=key,
                identity=compiled.workload_identity[key],
                tenant=compiled.workload_tenant[key],
                interface=snapshot.workloads[key].interface or "",
                ifindex=WIRED[key].index,
                netns=None,
                addresses=tuple(str(a) for a in snapshot.workloads[key].addresses),
                labels=dict(snapshot.workloads[key].labels),
            )
            for key in sorted(snapshot.workloads)
        ),
    )


def number_of(place: Place, labels: str) -> int:
    """The identity with these labels."""
    [found] = [row["identity"] for row in place.json("identity", "list") if row["labels"] == labels]
    return int(found)


HOLD_LOCK = """
import fcntl, os, sys, time
file = open(sys.argv[1], "w")
fcntl.flock(file, fcntl.LOCK_EX)
file.write(str(os.getpid()))
file.flush()
print("held", flush=True)
time.sleep(60)
"""


@contextmanager
def holding_lock(place: Place) -> Iterator[int]:
    """Another process holds the agent's lock; its pid. It is killed at the end."""
    path = lock_path(place.run_dir)
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD_LOCK, str(path)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        yield holder.pid
    finally:
        holder.kill()
        holder.communicate()
    assert path.read_text() == str(holder.pid)
