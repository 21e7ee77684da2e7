"""`kind: AgentConfig`: every field, every default, every defect."""

from __future__ import annotations

import socket
from dataclasses import fields, replace
from pathlib import Path

import pytest

from pyagent.config import AgentConfig, MapSizes, NodeTraffic
from pyagent.errors import InvalidState
from pyagent.manifests import load_agent_config

HEAD = "apiVersion: sluice.dev/v1alpha1\nkind: AgentConfig\n"


def load(folder: Path, text: str) -> AgentConfig:
    (folder / "agent.yaml").write_text(text)
    return load_agent_config(folder / "agent.yaml")


def refused(folder: Path, text: str) -> list[str]:
    with pytest.raises(InvalidState) as caught:
        load(folder, text)
    return [str(problem).replace(f"{folder}/", "") for problem in caught.value.problems]


def test_defaults(tmp_path: Path) -> None:
    config = load(tmp_path, HEAD + "spec: {source: {directory: /etc/sluice/manifests}}")
    assert config == AgentConfig(
        node=socket.gethostname(), source_directory=Path("/etc/sluice/manifests")
    )
    assert config.metrics_address == "127.0.0.1:9464"


def test_every_field(tmp_path: Path) -> None:
    config = load(
        tmp_path,
        HEAD
        + """
metadata: {name: agent, labels: {a: b}}
spec:
  node: node-1.example
  source: {directory: manifests}
  stateDir: /s
  runDir: /r
  cgroup: /sys/fs/cgroup/sluice
  metrics: {address: "[::]:9000"}
  nodeTraffic: policy
  mapSizes: {localAddrs: 5, proxyClients: 6, policy: 7, events: 8192}
""",
    )
    assert config == AgentConfig(
        node="node-1.example",
        source_directory=tmp_path / "manifests",
        state_dir=Path("/s"),
        run_dir=Path("/r"),
        cgroup=Path("/sys/fs/cgroup/sluice"),
        metrics_address="[::]:9000",
        node_traffic=NodeTraffic.POLICY,
        map_sizes=MapSizes(local_addrs=5, proxy_clients=6, policy=7, events=8192),
    )


def test_every_map_has_a_size(tmp_path: Path) -> None:
    for size in fields(MapSizes):
        first, *rest = size.name.split("_")
        name = first + "".join(map(str.capitalize, rest))
        config = load(
            tmp_path, f"{HEAD}spec: {{source: {{directory: /x}}, mapSizes: {{{name}: 16384}}}}"
        )
        assert config.map_sizes == replace(MapSizes(), **{size.name: 16384})


def test_nulls_are_defaults(tmp_path: Path) -> None:
    config = load(
        tmp_path,
        HEAD + "metadata:\nspec: {source: {directory: /x}, node: , stateDir: , runDir: , cgroup: ,"
        " metrics: , nodeTraffic: , mapSizes: }",
    )
    assert config == AgentConfig(node=socket.gethostname(), source_directory=Path("/x"))


@pytest.mark.parametrize(
    ("metrics", "address"),
    [
        ("{}", "127.0.0.1:9464"),
        ("{address: }", None),
        ("{address: ''}", None),
        ("{address: 'localhost:1'}", "localhost:1"),
    ],
)
def test_metrics_address(tmp_path: Path, metrics: str, address: str | None) -> None:
    config = load(tmp_path, f"{HEAD}spec: {{source: {{directory: /x}}, metrics: {metrics}}}")
    assert config.metrics_address == address


ADDRESS = "must be HOST:PORT such as 127.0.0.1:9464, or '' for off"
PATH = "must be an absolute path without '.', '..', '//' and a '/' at its end"
ENTRIES = "must be from 1 to 16777216 entries"
EVENTS = "must be a power of two from 4096 to 1073741824 bytes"


@pytest.mark.parametrize(
    ("spec", "line"),
    [
        ("metrics: {address: ':9464'}", f"spec.metrics.address: {ADDRESS}, not ':9464'"),
        ("metrics: {address: '9464'}", f"spec.metrics.address: {ADDRESS}, not '9464'"),
        ("metrics: {address: '::1:9464'}", f"spec.metrics.address: {ADDRESS}, not '::1:9464'"),
        ("metrics: {address: '[x]:1'}", f"spec.metrics.address: {ADDRESS}, not '[x]:1'"),
        ("metrics: {address: 'a:65536'}", f"spec.metrics.address: {ADDRESS}, not 'a:65536'"),
        ("metrics: {address: 'a:0'}", f"spec.metrics.address: {ADDRESS}, not 'a:0'"),
        (
            "metrics: {port: 1}",
            "spec.metrics: unknown field 'port' (known: address)",
        ),
        ("stateDir: state", f"spec.stateDir: {PATH}, not 'state'"),
        ("runDir: /run/../x", f"spec.runDir: {PATH}, not '/run/../x'"),
        ("cgroup: 5", "spec.cgroup: must be text, not the number 5 (put it in quotes)"),
        ("nodeTraffic: deny", "spec.nodeTraffic: must be 'allow' or 'policy', not 'deny'"),
        ("mapSizes: {policy: 0}", f"spec.mapSizes.policy: {ENTRIES}, not 0"),
        ("mapSizes: {policy: 16777217}", f"spec.mapSizes.policy: {ENTRIES}, not 16777217"),
        ("mapSizes: {events: 5000}", f"spec.mapSizes.events: {EVENTS}, not 5000"),
        ("mapSizes: {events: 2048}", f"spec.mapSizes.events: {EVENTS}, not 2048"),
        ("mapSizes: {policy: }", "spec.mapSizes.policy: must be a whole number, not null"),
        (
            "mapSizes: {local_addrs: 1}",
            "spec.mapSizes: unknown field 'local_addrs' (did you mean 'localAddrs'?)",
        ),
        ("statedir: /x", "spec: unknown field 'statedir' (did you mean 'stateDir'?)"),
    ],
)
def test_defects_of_fields(tmp_path: Path, spec: str, line: str) -> None:
    text = f"{HEAD}spec: {{source: {{directory: /x}}, {spec}}}"
    assert refused(tmp_path, text) == [f"agent.yaml: document 1: {line}"]


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("", ["agent.yaml: must hold one AgentConfig, not 0 documents"]),
        (
            f"{HEAD}---\n{HEAD}",
            ["agent.yaml: must hold one AgentConfig, not 2 documents"],
        ),
        (
            "[]",
            [
                "agent.yaml: document 1: must be a mapping with apiVersion and kind, not a list",
            ],
        ),
        (
            "---\n---\napiVersion: v1\nkind: Tenant",
            [
                "agent.yaml: document 2: apiVersion: must be 'sluice.dev/v1alpha1', not 'v1'",
                "agent.yaml: document 2: kind: must be 'AgentConfig', not 'Tenant'",
            ],
        ),
        (
            "a: {b: c, b: d}",
            ["agent.yaml: document 1: a.b: the key is given twice"],
        ),
        (HEAD, ["agent.yaml: document 1: spec: is required"]),
        (HEAD + "spec: {}", ["agent.yaml: document 1: spec.source: is required"]),
        (
            HEAD + "spec: {source: {}, node: A B}",
            [
                "agent.yaml: document 1: spec.node: must be at most 253 lowercase letters, digits,"
                " '-' and '.', each part beginning and ending with a letter or digit, not 'A B'",
                "agent.yaml: document 1: spec.source.directory: is required",
            ],
        ),
        (
            HEAD + "spec: {source: {directory: ''}}",
            ["agent.yaml: document 1: spec.source.directory: must be a path, not ''"],
        ),
    ],
)
def test_defects_of_the_document(tmp_path: Path, text: str, lines: list[str]) -> None:
    assert refused(tmp_path, text) == lines


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    for name, reason in (("gone", "No such file or directory"), (".", "Is a directory")):
        with pytest.raises(InvalidState) as caught:
            load_agent_config(tmp_path / name)
        assert str(caught.value) == f"{tmp_path / name}: cannot be read: {reason}"
    (tmp_path / "agent.yaml").write_bytes(b"\xff")
    with pytest.raises(InvalidState, match=r"agent.yaml: line 1: not UTF-8 text \(byte 0xff\)"):
        load_agent_config(tmp_path / "agent.yaml")
