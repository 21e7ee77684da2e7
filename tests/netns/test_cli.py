"""The command line beside a running agent, and beside none; and the metrics endpoint."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.netns.node import Netns, Node, policy, tenant, workload
from tests.netns.traffic import http, tcp, tcp_dropped

OWN = policy(
    "shop",
    "own",
    ingress=[{"from": [{"podSelector": {}}], "ports": [{"port": 5000}, {"port": 80}]}],
)


@dataclass(frozen=True)
class Site:
    """A node with a tenant of two workloads, and one of a namespace that is no tenant."""

    node: Node
    web: Netns
    client: Netns
    guest: Netns
    spare: Netns

    def json(self, *arguments: str) -> Any:
        """What a command says with `-o json`."""
        done = self.node.sluice(*arguments, "-o", "json")
        assert (done.returncode, done.stderr) == (0, "")
        return json.loads(done.stdout)


@pytest.fixture(scope="module")
def site(shared_node: Node) -> Iterator[Site]:
    node = shared_node
    web, client, guest, spare = (node.host(name) for name in ("web", "client", "guest", "spare"))
    node.write(
        "all.yaml",
        tenant("shop", 80),
        workload(
            web, "shop", "web", ["10.201.0.1", "fd00:201::1"], ports=[{"name": "http", "port": 80}]
        ),
        workload(client, "shop", "client", ["10.201.0.2"]),
        workload(guest, "plain", "guest", ["10.203.0.1"]),
        OWN,
    )
    node.start_agent()
    web.serve(http=[80], tcp=[5000])
    assert tcp(client, "10.201.0.1", 5000) == "10.201.0.2"
    assert http(client, "10.201.0.1").status == 200
    tcp_dropped(node, "policy_ingress", guest, "10.201.0.1", 5000)
    yield Site(node, web, client, guest, spare)


def by(rows: list[dict[str, Any]], column: str) -> dict[Any, dict[str, Any]]:
    """A listing's rows by one of their columns, each value once."""
    assert len({row[column] for row in rows}) == len(rows)
    return {row[column]: row for row in rows}


def refused(site: Site, *arguments: str, status: int = 1) -> str:
    """What a command says that fails: one line on stderr, nothing on stdout."""
    done = site.node.sluice(*arguments)
    assert done.returncode == status, done.stdout + done.stderr
    assert done.stdout == ""
    assert re.fullmatch(r"sluice: [^\n]+\n", done.stderr), done.stderr
    return done.stderr


def test_status(site: Site) -> None:
    told = site.json("status")
    assert site.node.agent is not None
    assert told["agent"] == {"running": True, "pid": site.node.agent.pid}
    assert told["in_force"]["node"] == site.node.name
    assert told["in_force"]["counts"] == {
        "namespaces": 2,
        "workloads": 3,
        "policies": 1,
        "tenants": 1,
    }
    assert told["in_force"]["problems"] == []
    kernel = told["kernel"]
    assert kernel["forwarded"]["packets"] > 10
    assert kernel["dropped"]["by_reason"]["policy_ingress"]["packets"] >= 1
    assert kernel["stats"]["handoffs"] == 1
    [proxy] = kernel["proxies"]
    assert (proxy["tenant"], proxy["ready"], proxy["failure_mode"]) == ("shop", True, "closed")
    table = site.node.sluice("status").stdout
    for words in ("running, pid", "workloads 3", "policy_ingress", "shop: ready"):
        assert words in table


def test_workload_list_and_get(site: Site) -> None:
    rows = by(site.json("workload", "list"), "workload")
    assert rows.keys() == {"shop/web", "shop/client", "plain/guest"}
    web = rows["shop/web"]
    assert (web["tenant"], web["addresses"]) == ("shop", ["10.201.0.1", "fd00:201::1"])
    assert web["netns"] == site.web.path
    assert web["labels"] == {"app": "web"}
    assert rows["plain/guest"]["tenant"] is None
    assert rows["shop/client"]["identity_counters"]["egress"]["forwarded_packets"] > 0
    links = json.loads(site.node.run("ip", "-j", "link").stdout)
    index = {link["ifname"]: link["ifindex"] for link in links}
    assert all(index[row["interface"]] == row["ifindex"] for row in rows.values())
    got = site.json("workload", "get", "shop/web")
    assert {name: got[name] for name in ("workload", "identity", "interface")} == {
        name: web[name] for name in ("workload", "identity", "interface")
    }
    assert (
        yaml.safe_load(site.node.sluice("workload", "get", "shop/web").stdout)["identity"]
        == web["identity"]
    )
    assert "shop/nobody" in refused(site, "workload", "get", "shop/nobody")


def test_workload_add_and_delete(site: Site) -> None:
    before = site.node.state
    add = ("workload", "add", "shop/new", "--netns", site.spare.path, "--label", "app=new")
    addresses = ("--address", "10.201.0.7", "fd00:201::7")
    done = site.node.sluice(*add, *addresses)
    path = site.node.manifests / "workload-shop-new.yaml"
    assert (done.returncode, done.stdout) == (0, f"{path}: written\n")
    site.node.wait_applied(before)
    assert tcp(site.spare, "10.201.0.1", 5000) == "10.201.0.7"
    assert tcp(site.spare, "fd00:201::1", 5000) == "fd00:201::7"
    assert "there already" in refused(site, *add, *addresses)
    taken = ("workload", "add", "shop/other", "--netns", "/run/netns/x", "--address", "10.201.0.7")
    assert "10.201.0.7" in refused(site, *taken)
    assert "all.yaml" in refused(site, "workload", "delete", "shop/web")
    assert "--netns or --interface" in refused(
        site, "workload", "add", "shop/x", "--address", "10.9.9.9", status=2
    )
    before = site.node.state
    assert site.node.sluice("workload", "delete", "shop/new").returncode == 0
    assert not path.exists()
    site.node.wait_applied(before)
    assert "shop/new" not in by(site.json("workload", "list"), "workload")
    with pytest.raises(OSError):
        tcp(site.spare, "10.201.0.1", 5000)
    assert "no workload shop/new" in refused(site, "workload", "delete", "shop/new")


def test_identity_list(site: Site) -> None:
    rows = site.json("identity", "list")
    numbers = by(rows, "identity")
    assert "10.200.0.1/32" in numbers[1]["prefixes"]  # the node
    assert {"0.0.0.0/0", "::/0"} <= set(numbers[2]["prefixes"])  # the world
    [web] = [row for row in rows if "shop/web" in row["workloads"]]
    # no policy names the label app: all of the namespace are one to policy
    assert sorted(web["workloads"]) == ["shop/client", "shop/web"]
    assert set(web["prefixes"]) == {"10.201.0.1/32", "10.201.0.2/32", "fd00:201::1/128"}
    assert web["labels"] == "shop"
    assert web["identity"] == site.json("workload", "get", "shop/web")["identity"]


def test_policy_list_and_get(site: Site) -> None:
    rules = by(site.json("policy", "list"), "name")
    rule = rules["shop/own ingress[0]"]
    assert (rule["verdicts"], rule["directions"]) == (["allow"], ["ingress"])
    assert rule["rows"] > 0
    handoff = rules["tenant shop http 80"]
    assert handoff["verdicts"] == ["handoff"]
    rows = site.json("policy", "get", "shop/own")
    assert len(rows) == rule["rows"]
    assert {(row["ports"], row["protocol_name"], row["verdict_name"]) for row in rows} == {
        ("5000", "tcp", "allow")
    }
    assert {row["rule_name"] for row in rows} == {"shop/own ingress[0]"}
    assert "no/such" in refused(site, "policy", "get", "no/such")


def test_map_list_dump_and_get(site: Site) -> None:
    maps = by(site.json("map", "list"), "name")
    dump = site.json("map", "dump", "policy")
    assert maps["policy"]["entries"] == len(dump)
    assert maps["policy"]["capacity"] == 262_144
    identity = {
        key: row["identity"] for key, row in by(site.json("workload", "list"), "workload").items()
    }
    wanted = {
        "subject": identity["shop/web"],
        "peer": identity["shop/client"],
        "direction_name": "ingress",
        "ports": "5000",
        "verdict_name": "allow",
        "rule_name": "shop/own ingress[0]",
    }
    assert sum(wanted.items() <= row.items() for row in dump) == 1
    fields = ("direction=ingress", "protocol=tcp", "port=80")
    ends = (f"subject={identity['shop/web']}", f"peer={identity['shop/client']}")
    got = site.json("map", "get", "policy", *ends, *fields)
    assert (got["verdict_name"], got["rule_name"]) == ("handoff", "tenant shop http 80")
    local = site.json("map", "get", "local_addrs", "address=10.201.0.2")
    assert (local["ifindex_name"], local["identity"]) == ("shop/client", identity["shop/client"])
    flows = site.json("map", "dump", "conntrack")
    legs = {
        (flow["leg_name"], flow["verdict_name"])
        for flow in flows
        if 80 in (flow["low_port"], flow["high_port"])
    }
    assert legs == {("client", "handoff"), ("direct", "allow")}
    assert "no entry" in refused(site, "map", "get", "local_addrs", "address=10.9.9.9")
    assert "unknown field" in refused(site, "map", "get", "local_addrs", "color=red")
    refused(site, "map", "dump", "none", status=2)


def test_proxy_list(site: Site) -> None:
    [row] = site.json("proxy", "list")
    assert (row["tenant"], row["ready"], row["configuration"], row["restarts"]) == (
        "shop",
        True,
        "accepted",
        0,
    )
    assert Path(f"/proc/{row['pid']}/exe").readlink().name == "envoy"
    assert row["memory"] > 1 << 20


def test_plan(site: Site, tmp_path: Path) -> None:
    assert site.json("plan", str(site.node.manifests)) == []
    before = site.json("map", "dump", "policy")
    for file in site.node.manifests.iterdir():
        (tmp_path / file.name).write_text(file.read_text())
    (tmp_path / "more.yaml").write_text(yaml.safe_dump(policy("plain", "closed")))
    planned = site.json("plan", str(tmp_path))
    assert {row["map"] for row in planned} == {"policy"}
    assert any(row["action"] == "remove" and "ns:" not in row["value"] for row in planned)
    assert site.json("map", "dump", "policy") == before
    assert "no-such-folder" in refused(site, "plan", str(tmp_path / "no-such-folder"))


def test_check_and_validate(site: Site) -> None:
    rows = by(site.json("check"), "check")
    assert {rows[name]["status"] for name in ("privileges", "kernel", "BTF", "cgroup v2")} == {"ok"}
    assert "missing" not in {row["status"] for row in rows.values()}
    done = site.node.sluice("validate", str(site.node.manifests))
    assert done.returncode == 0
    assert "3 workloads, 1 network policy, 1 tenant" in done.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ("no-such-command",),
        ("status", "-o", "xml"),
        ("workload", "get"),
        ("map", "get", "policy"),
        ("plan",),
    ],
    ids=" ".join,
)
def test_usage_errors(site: Site, arguments: tuple[str, ...]) -> None:
    assert "--help" in refused(site, *arguments, status=2)


def test_cleanup_leaves_a_running_agent_alone(site: Site) -> None:
    assert site.node.agent is not None
    assert f"pid {site.node.agent.pid}" in refused(site, "cleanup")
    assert tcp(site.client, "10.201.0.1", 5000)


def scrape(site: Site) -> dict[str, float]:
    """The metrics, by name with labels."""
    answer = http(site.node, "127.0.0.1", 9464, "/metrics")
    assert answer.status == 200
    lines = [line for line in answer.body.decode().splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


def test_metrics_move(site: Site) -> None:
    first = scrape(site)
    assert http(site.client, "10.201.0.1").status == 200
    tcp_dropped(site.node, "policy_ingress", site.guest, "10.201.0.1", 5000)
    before = site.node.state
    site.node.write("more.yaml", policy("plain", "open", ingress=[{}]))
    site.node.wait_applied(before)
    second = scrape(site)
    moved = {name for name in second if second[name] > first.get(name, 0.0)}
    assert {
        'sluice_forward_count_total{direction="egress"}',
        'sluice_forward_bytes_total{direction="egress"}',
        'sluice_drop_count_total{direction="ingress",reason="policy_ingress"}',
        "sluice_reconcile_seconds_count",
        "sluice_reconcile_seconds_sum",
    } <= {re.sub(r"{(.*)}", sorted_labels, name) for name in moved}
    assert any(name.startswith("sluice_handoff_total{") for name in moved)
    assert any(name.startswith("sluice_map_ops_total{") for name in moved)
    assert second['sluice_proxy_ready{tenant="shop"}'] == 1
    assert 0 < second['sluice_map_pressure{map="policy"}'] < 0.01
    assert second["sluice_events_lost_total"] == 0
    assert second["process_cpu_seconds_total"] > 0
    assert http(site.node, "127.0.0.1", 9464, "/").status == 404


def sorted_labels(found: re.Match[str]) -> str:
    return "{" + ",".join(sorted(found[1].split(","))) + "}"


READ = (
    ("map", "dump", "policy"),
    ("map", "dump", "identities"),
    ("identity", "list"),
    ("policy", "list"),
    ("workload", "list"),
)


def without_counters(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The kernel goes on counting."""
    return [{name: row[name] for name in row if name != "identity_counters"} for row in rows]


def test_everything_that_reads_works_while_no_agent_runs(site: Site) -> None:
    before = {words: without_counters(site.json(*words)) for words in READ}
    assert site.node.agent is not None
    site.node.stop_agent(signal.SIGKILL)
    try:
        assert {words: without_counters(site.json(*words)) for words in READ} == before
        assert len(before["map", "dump", "policy"]) > 5
        assert site.json("status")["agent"] == {"running": False, "pid": None}
        assert "not running: the kernel goes on" in site.node.sluice("status").stdout
        assert [row["ready"] for row in site.json("proxy", "list")] == [True]
        assert http(site.client, "10.201.0.1").status == 200
    finally:
        site.node.start_agent()
    assert site.json("map", "dump", "policy") == before["map", "dump", "policy"]
