"""`sluice workload add|delete`, and what needs no root of the commands that read."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from ipaddress import ip_address
from pathlib import Path

import pytest

from pyagent.manifests import load_directory
from pyagent.model import NamedPort, Origin, Protocol, Snapshot, Workload
from pyagent.state import agent_pid, lock_path

SLUICE = (sys.executable, "-c", "from pyagent.cli.main import main; main()")
SHOP = """\
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: sluice.dev/v1alpha1
kind: Workload
metadata: {name: web, namespace: shop}
spec: {netns: /run/netns/web, addresses: [10.1.0.2]}
"""
NEW = ("workload", "add", "shop/db", "--address", "10.1.0.3")
WITH_NETNS = (*NEW, "--netns", "/run/netns/db")


@pytest.fixture
def manifests(tmp_path: Path) -> Path:
    """A valid directory, named by the agent configuration beside it."""
    (tmp_path / "agent.yaml").write_text(
        "apiVersion: sluice.dev/v1alpha1\nkind: AgentConfig\nspec:\n"
        f"  source: {{directory: manifests}}\n  stateDir: {tmp_path}/state\n"
        f"  runDir: {tmp_path}/run\n"
    )
    folder = tmp_path / "manifests"
    folder.mkdir()
    (folder / "shop.yaml").write_text(SHOP)
    return folder


def sluice(
    folder: Path, *arguments: str, prefix: tuple[str, ...] = ()
) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "SLUICE_CONFIG": str(folder.parent / "agent.yaml")}
    return subprocess.run(
        [*prefix, *SLUICE, *arguments],
        env={**environment, "SLUICE_DEBUG": ""},
        capture_output=True,
        text=True,
        timeout=60,
    )


def listing(folder: Path) -> dict[str, str]:
    """Every file of a directory, hidden ones too, with its text."""
    return {path.name: path.read_text() for path in folder.iterdir()}


def refused(folder: Path, *arguments: str, status: int = 1) -> str:
    """The one line of a command that must be refused and change nothing."""
    before = listing(folder)
    done = sluice(folder, *arguments)
    assert (done.returncode, done.stdout) == (status, ""), done.stderr
    assert listing(folder) == before
    [line] = done.stderr.splitlines()
    return line.removeprefix("sluice: ")


def workload_in(snapshot: Snapshot, key: str) -> Workload:
    return snapshot.workloads[key]


# add


def test_add_writes_one_manifest_that_reads_back(manifests: Path) -> None:
    options = [
        "--interface",
        "veth7",
        "--address",
        "10.1.0.3",
        "fd00:1::3",
        "--address",
        "10.1.0.4",
    ]
    options += ["--label", "app=db", "--label", "version=1.0", "--label", "empty="]
    options += ["--port", "pg:5432/TCP", "--port", "dns:53/udp", "--port", "web:80"]
    done = sluice(manifests, "workload", "add", "shop/db", *options)
    path = manifests / "workload-shop-db.yaml"
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{path}: written\n", "")
    added = workload_in(load_directory(manifests), "shop/db")
    assert added == Workload(
        namespace="shop",
        name="db",
        labels={"app": "db", "version": "1.0", "empty": ""},
        addresses=added.addresses,
        ports=(
            NamedPort("pg", 5432, Protocol.TCP),
            NamedPort("dns", 53, Protocol.UDP),
            NamedPort("web", 80, Protocol.TCP),
        ),
        interface="veth7",
        netns=None,
        origin=Origin(str(path), 1),
    )
    expected = {ip_address(text) for text in ("10.1.0.3", "10.1.0.4", "fd00:1::3")}
    assert set(added.addresses) == expected
    assert set(listing(manifests)) == {"shop.yaml", path.name}


def test_add_of_a_workload_that_is_there_names_its_document(manifests: Path) -> None:
    line = refused(
        manifests, "workload", "add", "shop/web", "--address", "10.1.0.9", "--netns", "/run/netns/x"
    )
    where = f"{manifests}/shop.yaml: document 2"
    assert line == f"workload shop/web is there already: {where}"


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (
            ("--address", "10.1.0.2", "--netns", "/run/netns/db"),
            "spec.addresses[0]: 10.1.0.2 is already used by Workload shop/web in"
            " DIR/shop.yaml: document 2",
        ),
        (
            ("--address", "10.1.0.3", "--netns", "/run/netns/web"),
            "spec.netns: /run/netns/web is already used by Workload shop/web in"
            " DIR/shop.yaml: document 2",
        ),
        (
            ("--address", "127.0.0.1", "--netns", "/run/netns/db"),
            "spec.addresses[0]: must be a unicast address of the workload, not a loopback address"
            " (127.0.0.1)",
        ),
        (
            ("--address", "10.1.0.3", "--interface", "lo"),
            "spec.interface: must not be the loopback interface",
        ),
    ],
)
def test_add_that_would_not_be_valid_changes_nothing(
    manifests: Path, options: tuple[str, ...], problem: str
) -> None:
    line = refused(manifests, "workload", "add", "shop/db", *options)
    expected = f"{manifests}/workload-shop-db.yaml: document 1: {problem}"
    assert line == expected.replace("DIR", str(manifests))


def test_add_to_a_directory_that_is_not_valid_is_refused(manifests: Path) -> None:
    (manifests / "broken.yaml").write_text("kind: Nonsense\n")
    assert refused(manifests, *WITH_NETNS).startswith(f"{manifests}/broken.yaml: document 1: ")


def test_add_never_replaces_a_file(manifests: Path) -> None:
    (manifests / "workload-shop-db.yaml").write_text("")
    line = refused(manifests, *WITH_NETNS)
    assert line == (
        f"{manifests}/workload-shop-db.yaml: the file is there already, with something else"
    )


def test_add_where_nothing_may_be_written_says_so(
    manifests: Path, without_root: tuple[str, ...]
) -> None:
    manifests.chmod(0o555)
    done = sluice(manifests, *WITH_NETNS, prefix=without_root)
    path = manifests / "workload-shop-db.yaml"
    line = f"sluice: {path}: cannot be written: permission denied: run as root\n"
    assert (done.stderr, done.stdout, done.returncode) == (line, "", 1)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (NEW, "give either --netns or --interface"),
        ((*WITH_NETNS, "--interface", "veth7"), "give either --netns or --interface"),
        (
            ("workload", "add", "db", *WITH_NETNS[3:]),
            "Invalid value for NS/NAME: 'db' is not NAMESPACE/NAME",
        ),
        (
            ("workload", "add", "shop/../x", *WITH_NETNS[3:]),
            "Invalid value for NS/NAME: 'shop/../x' is not NAMESPACE/NAME",
        ),
        (
            (*WITH_NETNS, "--address", "ten"),
            "Invalid value for --address: 'ten' is not an IPv4 or IPv6 address",
        ),
        ((*WITH_NETNS, "--label", "app"), "Invalid value for --label: 'app' is not KEY=VALUE"),
        (
            (*WITH_NETNS, "--label", "a=b", "--label", "a=c"),
            "Invalid value for --label: 'a=c' is given twice",
        ),
        (
            (*WITH_NETNS, "--port", "http:80/ICMP"),
            "Invalid value for --port: 'http:80/ICMP' is not NAME:PORT/PROTOCOL,"
            " such as http:8080/TCP",
        ),
    ],
)
def test_wrong_arguments_of_add_are_usage_errors(
    manifests: Path, arguments: tuple[str, ...], line: str
) -> None:
    expected = f"{line}: see 'sluice workload add --help'"
    assert refused(manifests, *arguments, status=2) == expected


# delete


def test_delete_removes_the_file_of_a_workload_alone(manifests: Path) -> None:
    assert sluice(manifests, *WITH_NETNS).returncode == 0
    path = manifests / "workload-shop-db.yaml"
    path.write_text(f"---\n# ours\n{path.read_text()}---\n")  # an empty document is none
    done = sluice(manifests, "workload", "delete", "shop/db")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{path}: removed\n", "")
    assert listing(manifests) == {"shop.yaml": SHOP}


def test_delete_from_a_shared_file_says_what_to_edit(manifests: Path) -> None:
    line = refused(manifests, "workload", "delete", "shop/web")
    assert line == (
        f"{manifests}/shop.yaml holds other documents too: edit it and remove document 2,"
        " Workload shop/web"
    )


def test_delete_of_what_is_not_there_is_refused(manifests: Path) -> None:
    line = refused(manifests, "workload", "delete", "shop/nobody")
    assert line == f"no workload shop/nobody in {manifests}"


# configuration


@pytest.mark.parametrize(
    "command",
    [
        *(
            ("status",),
            ("workload", "list"),
            ("workload", "get", "a/b"),
            ("workload", "delete", "a/b"),
        ),
        *(WITH_NETNS, ("identity", "list"), ("policy", "list"), ("policy", "get", "a/b")),
        *(("map", "list"), ("map", "dump", "policy"), ("map", "get", "tenants", "tenant=1")),
        ("proxy", "list"),
    ],
    ids=" ".join,
)
def test_without_a_configuration_each_command_says_which_is_missing(
    manifests: Path, command: tuple[str, ...]
) -> None:
    (manifests.parent / "agent.yaml").unlink()
    line = refused(manifests, *command)
    path = manifests.parent / "agent.yaml"
    assert line == f"{path}: no such file: name the agent's with --config"


def test_a_configuration_that_may_not_be_read_says_so(manifests: Path) -> None:
    path = manifests.parent / "agent.yaml"
    path.chmod(0)
    # The modules are imported first: a checkout may be in a folder that only root may enter.
    code = "import os, sys, pyagent.cli.status; from pyagent.cli.main import main;"
    code += "os.geteuid() or os.setresuid(65534, 65534, 65534); main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "status", "--config", str(path)],
        env={**os.environ, "SLUICE_DEBUG": ""},
        capture_output=True,
        text=True,
        timeout=60,
    )
    line = f"sluice: {path}: permission denied: run as root\n"
    assert (done.stderr, done.stdout, done.returncode) == (line, "", 1)


# agent_pid


@pytest.mark.parametrize("text", [None, "", "x", "0", "-1", "4194305", "99999999999999999999"])
def test_no_agent_runs_by_a_lock_file_that_names_none(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        lock_path(tmp_path).write_text(text)
    assert agent_pid(tmp_path) is None


def test_a_process_without_the_lock_is_no_agent(tmp_path: Path) -> None:
    lock_path(tmp_path).write_text(str(os.getpid()))
    assert agent_pid(tmp_path) is None
    with lock_path(tmp_path).open():  # open, but not locked
        assert agent_pid(tmp_path) is None


def test_the_holder_of_the_lock_is_the_agent_for_as_long_as_it_holds_it(tmp_path: Path) -> None:
    with lock_path(tmp_path).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert agent_pid(tmp_path) is None  # its pid is not there yet
        lock.write(f"{os.getpid()}\n")
        lock.flush()
        assert agent_pid(tmp_path) == os.getpid()
    assert agent_pid(tmp_path) is None


def test_a_lock_on_another_file_does_not_count(tmp_path: Path) -> None:
    lock_path(tmp_path).write_text(str(os.getpid()))
    with (tmp_path / "other").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        assert agent_pid(tmp_path) is None
