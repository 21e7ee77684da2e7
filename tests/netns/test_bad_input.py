"""Bad input while the agent runs: one clear line, nothing changed, traffic goes on."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from socket import socket
from typing import Any

import pytest
import yaml

from tests.netns import wires
from tests.netns.node import SLUICE, Netns, Node, ip, policy, tenant, wait_for, workload
from tests.netns.traffic import connect, echo, greet, http, tcp

SIZES = {"policy": 64, "localAddrs": 8}
MAPS = ("workloads", "local_addrs", "identities", "policy", "tenants", "proxies", "settings")


@dataclass(frozen=True)
class Site:
    """A node with small maps, two workloads, and a connection that lasts."""

    node: Node
    web: Netns
    client: Netns
    spare: Netns
    taken: Netns
    kept: socket


@pytest.fixture(scope="module")
def site(shared_node: Node) -> Iterator[Site]:
    node = shared_node
    node.configure(mapSizes=SIZES)
    web, client, spare, taken = (node.host(name) for name in ("web", "client", "spare", "taken"))
    wires.pair(node, "vtaken", taken)
    ip("-n", node.name, "link", "add", "dummy-bridge", "type", "bridge")
    ip("-n", node.name, "link", "add", "here-1", "type", "veth", "peer", "name", "here-2")
    node.write(
        "good.yaml",
        tenant("shop", 80),
        workload(web, "shop", "web", ["10.201.0.1", "fd00:201::1"]),
        workload(client, "shop", "client", ["10.201.0.2", "fd00:201::2"]),
        policy("shop", "own", ingress=[{"from": [{"podSelector": {}}]}]),
    )
    node.start_agent()
    web.serve(tcp=[5000], http=[80])
    with connect(client, "10.201.0.1", 5000) as kept:
        assert greet(kept) == "10.201.0.2"
        yield Site(node, web, client, spare, taken, kept)


def rows(node: Node) -> dict[str, Any]:
    """Everything that stands in the maps that the agent writes."""
    with node.tables() as tables:
        return {name: sorted(tables[name].map.entries()) for name in MAPS}


def wiring(node: Node) -> set[tuple[str, str]]:
    """The node's interfaces and its network namespaces."""
    links = {("link", link["ifname"]) for link in json.loads(ip("-n", node.name, "-j", "link"))}
    return links | {("namespace", path.name) for path in Path("/run/netns").glob("sluice-*")}


def netpol(name: str = "bad", namespace: str = "shop", **spec: Any) -> dict[str, Any]:
    return policy(namespace, name, **spec)


def on_interface(name: str, interface: str, address: str = "10.201.0.9") -> dict[str, Any]:
    return {
        "apiVersion": "sluice.dev/v1alpha1",
        "kind": "Workload",
        "metadata": {"name": name, "namespace": "shop"},
        "spec": {"interface": interface, "addresses": [address]},
    }


def in_namespace(name: str, netns: str, *addresses: str) -> dict[str, Any]:
    document = on_interface(name, "")
    document["spec"] = {"netns": netns, "addresses": list(addresses or ("10.201.0.9",))}
    return document


FINE = policy("shop", "fine")
WIDE = [{"port": 1, "endPort": 65_534}, {"port": 1, "endPort": 65_534, "protocol": "UDP"}]
UNKNOWN_OPERATOR = {"matchExpressions": [{"key": "app", "operator": "Equals", "values": ["web"]}]}

# What is written, and what the line says: document, field, and words of the message. Documents
# are text, or values; "{spare}", "{taken}" and "{web}" are paths of namespaces.
BAD: dict[str, tuple[list[Any], int, str, str]] = {
    "malformed YAML": (["kind: [Namespace\nspec:\n"], 1, "", "line"),
    "a tab": ([FINE, "metadata:\n\tname: x\n"], 2, "", "line"),
    "no mapping": ([FINE, "just words\n"], 2, "", "mapping"),
    "an unknown kind": (["apiVersion: v1\nkind: Pod\nmetadata: {name: x}\n"], 1, "kind", "Pod"),
    "an unknown field": ([FINE, netpol(ingres=[])], 2, "spec", "unknown field 'ingres'"),
    "an unknown operator": (
        [FINE, netpol(ingress=[{"from": [{"podSelector": UNKNOWN_OPERATOR}]}])],
        2,
        "spec.ingress[0].from[0].podSelector.matchExpressions[0].operator",
        "Equals",
    ),
    "a wrong port": (
        [netpol(ingress=[{"ports": [{"port": 65_536}]}])],
        1,
        "spec.ingress[0].ports[0].port",
        "65536",
    ),
    "an address used twice": (
        [FINE, in_namespace("new", "{spare}", "10.201.0.2")],
        2,
        "spec.addresses[0]",
        "shop/client",
    ),
    "a name used twice": ([FINE, FINE], 2, "metadata.name", "twice"),
    "a namespace used twice": ([in_namespace("new", "{web}")], 1, "spec.netns", "shop/web"),
    "an interface that is not there": (
        [FINE, on_interface("new", "veth-none")],
        2,
        "spec.interface",
        "veth-none",
    ),
    "an interface that is no veth": (
        [on_interface("new", "dummy-bridge")],
        1,
        "spec.interface",
        "veth",
    ),
    "the loopback interface": ([on_interface("new", "lo")], 1, "spec.interface", "loopback"),
    "a veth that leads nowhere": ([on_interface("new", "here-1")], 1, "spec.interface", "veth"),
    "a namespace that is not there": (
        [FINE, in_namespace("new", "/run/netns/none")],
        2,
        "spec.netns",
        "/run/netns/none",
    ),
    "a file that is no namespace": (
        [in_namespace("new", "/etc/passwd")],
        1,
        "spec.netns",
        "network namespace",
    ),
    "the node's own namespace": ([in_namespace("new", "{node}")], 1, "spec.netns", "node"),
    "a namespace with an eth0": ([in_namespace("new", "{taken}")], 1, "spec.netns", "eth0"),
    "more addresses than the map holds": (
        [FINE, in_namespace("new", "{spare}", *(f"10.201.1.{number}" for number in range(1, 6)))],
        2,
        "spec.addresses",
        "mapSizes.localAddrs",
    ),
    "a policy too large for the map": (
        [FINE, netpol("wide", ingress=[{"ports": WIDE}])],
        2,
        "spec",
        "mapSizes.policy",
    ),
}
ONLY_ON_THE_NODE = (
    "an interface that is not there",
    "an interface that is no veth",
    "a veth that leads nowhere",
    "a namespace that is not there",
    "a file that is no namespace",
    "the node's own namespace",
    "a namespace with an eth0",
    "more addresses than the map holds",
    "a policy too large for the map",
)


def put(site: Site, documents: list[Any]) -> Path:
    """Writes the documents into a file of the source's, in one step."""
    text = "---\n".join(
        document if isinstance(document, str) else yaml.safe_dump(document)
        for document in documents
    )
    for name in ("spare", "taken", "web", "node"):
        text = text.replace(f"'{{{name}}}'", getattr(site, name).path)
    bad = site.node.manifests / "new.yaml"
    temporary = bad.with_name(".new.yaml")
    temporary.write_text(text)
    return temporary.rename(bad)


def refusals(log: str) -> list[str]:
    """The log's lines that tell of a refusal, without what stands before the problem."""
    return [line.partition("stays in force: ")[2] for line in log.splitlines() if "refused" in line]


@pytest.fixture(autouse=True)
def good_again(site: Site) -> Iterator[None]:
    """Whatever comes of a test, the next begins with the good state in force."""
    yield
    (site.node.manifests / "new.yaml").unlink(missing_ok=True)
    wait_for(lambda: site.node.state and not site.node.state.problems, "the good state")


@pytest.mark.parametrize("case", BAD)
def test_one_clear_line_and_nothing_changes(site: Site, case: str, tmp_path: Path) -> None:
    node = site.node
    documents, document, field, words = BAD[case]
    before, wires_before, logged = rows(node), wiring(node), len(refusals(node.read_log()))

    bad = put(site, documents)
    state = wait_for(
        lambda: node.state if node.state and node.state.problems else None, "the refusal"
    )
    [line] = state.problems
    where = f"{bad}: document {document}: " + (f"{field}: " if field else "")
    assert line.startswith(where)
    assert words in line.removeprefix(where)
    assert "\n" not in line
    assert refusals(node.read_log())[logged:] == [line]

    assert rows(node) == before
    assert wiring(node) == wires_before
    assert echo(site.kept)
    assert http(site.client, "10.201.0.1").status == 200

    shutil.copytree(node.manifests, tmp_path / "copy")
    told = line.replace(str(node.manifests), str(tmp_path / "copy"))
    validated, planned = both(node, str(tmp_path / "copy"))
    statically = (0, "") if case in ONLY_ON_THE_NODE else (1, f"sluice: {told}\n")
    assert (validated.returncode, validated.stderr) == statically
    assert (planned.returncode, planned.stderr) == (1, f"sluice: {told}\n")
    assert rows(node) == before

    applied = state.applied
    bad.unlink()
    wait_for(
        lambda: node.state and not node.state.problems and node.state.applied > applied,
        "the good state",
    )
    assert tcp(site.client, "10.201.0.1", 5000) == "10.201.0.2"
    assert echo(site.kept)


def both(node: Node, folder: str) -> list[subprocess.CompletedProcess[str]]:
    """`sluice validate` and `sluice plan`, at once."""
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(lambda command: node.sluice(command, folder), ("validate", "plan")))


def test_every_defect_has_its_line(site: Site) -> None:
    node = site.node
    bad = put(site, [netpol(ingres=[]), netpol("b", egres=[]), on_interface("c", "lo", "x")])
    state = wait_for(
        lambda: node.state if node.state and node.state.problems else None, "the refusal"
    )
    fields = [line.removeprefix(f"{bad}: document ").split(": ")[:2] for line in state.problems]
    assert fields == [
        ["1", "spec"],
        ["2", "spec"],
        ["3", "spec.interface"],
        ["3", "spec.addresses[0]"],
    ]


def test_a_restart_with_bad_input_keeps_what_is_in_force(site: Site) -> None:
    node = site.node
    before = rows(node)
    node.stop_agent()
    bad = put(site, [netpol(ingres=[])])
    node.start_agent(wait=False)
    assert node.agent is not None
    pid = node.agent.pid
    wait_for(
        lambda: node.state and node.state.pid == pid and node.state.problems, "the refusal", 20
    )
    assert rows(node) == before
    assert echo(site.kept)
    assert http(site.client, "10.201.0.1").status == 200
    bad.unlink()
    wait_for(
        lambda: node.state and not node.state.problems and node.state.applied, "the good state"
    )
    assert rows(node)["policy"] == before["policy"]
    assert tcp(site.client, "10.201.0.1", 5000) == "10.201.0.2"
    assert echo(site.kept)


def refused_start(node: Node, *arguments: str, before: tuple[str, ...] = ()) -> str:
    """The only line that an agent says which cannot start."""
    command = node.command(*before, *SLUICE, "agent", *arguments)
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, cwd=node.manifests)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.endswith("\n")
    assert done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith("sluice: ")
    return done.stderr


def test_a_second_agent_is_refused(site: Site) -> None:
    assert site.node.agent is not None
    line = refused_start(site.node, "--config", str(site.node.config))
    assert f"pid {site.node.agent.pid}" in line
    assert str(site.node.run_dir) in line
    assert site.node.agent.poll() is None
    assert echo(site.kept)


def test_an_agent_without_root_is_refused(site: Site) -> None:
    nobody = (
        "setpriv",
        "--reuid=65534",
        "--regid=65534",
        "--clear-groups",
        "--bounding-set=-all,+dac_read_search",
        "--inh-caps=-all,+dac_read_search",
        "--ambient-caps=-all,+dac_read_search",
        "--",
    )
    assert "root" in refused_start(site.node, "--config", str(site.node.config), before=nobody)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "No such file"),
        ("", "AgentConfig"),
        ("\x00\x01", ""),
        ("kind: [", "line"),
        ("just words", "mapping"),
        ("apiVersion: sluice.dev/v1alpha1\nkind: Tenant\nmetadata: {name: x}\n", "AgentConfig"),
        ("apiVersion: sluice.dev/v1alpha1\nkind: AgentConfig\nspec: {}\n", "spec.source"),
        (
            "apiVersion: sluice.dev/v1alpha1\nkind: AgentConfig\n"
            "spec: {source: {directory: /tmp}, stateDirectory: /x}\n",
            "spec: unknown field 'stateDirectory'",
        ),
        (
            "apiVersion: sluice.dev/v1alpha1\nkind: AgentConfig\n"
            "spec: {source: {directory: /tmp}, mapSizes: {policy: 0}}\n",
            "spec.mapSizes.policy",
        ),
    ],
)
def test_an_agent_whose_configuration_is_bad_is_refused(
    site: Site, tmp_path: Path, text: str | None, words: str
) -> None:
    path = tmp_path / "agent.yaml"
    if text is not None:
        path.write_text(text)
    line = refused_start(site.node, "--config", str(path))
    assert str(path) in line
    assert words in line
