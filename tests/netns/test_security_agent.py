"""The agent under attack: by code that runs as a tenant's proxy, and from inside a workload.

Whatever such code leaves behind, the agent goes on, starts again, and takes everything away; the
other tenant notices nothing.
"""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from l7proxy import procfs, record
from pyagent.agent.service import cgroup_of
from pyagent.kernel.netlink import Netlink
from pyagent.manifests import load_agent_config
from tests.netns.lifecycle import TENANTS, Town, build, envoy_pid
from tests.netns.node import Node, tenant, wait_for

CLIENTS = {"shop": ("client", "10.201.0.1"), "bank": ("clerk", "10.202.0.1")}
KERNEL_OBJECTS = ("[eventpoll]", "[eventfd]", "[timerfd]", "inotify")  # that Envoy makes itself
NET_RAW = 1 << 13


@pytest.fixture(scope="module")
def town(shared_node: Node) -> Town:
    return build(shared_node)


@pytest.fixture(autouse=True)
def all_is_well_afterwards(town: Town) -> Iterator[None]:
    yield
    if town.node.agent is None:
        town.node.start_agent()
    for name in CLIENTS:
        await_served(town, name)


def await_served(town: Town, name: str) -> None:
    client, address = CLIENTS[name]
    host = town.hosts[client]
    wait_for(lambda: host.curl(f"http://{address}/")[0] == 200, f"the proxy of {name}", 20)


def directory(town: Town, name: str) -> Path:
    return town.node.state_dir / "proxies" / name


def open_files(pid: int) -> set[str]:
    """What the descriptors of a process stand for."""
    return {str(entry.readlink()) for entry in Path(f"/proc/{pid}/fd").iterdir()}


def as_proxy(town: Town, name: str, script: str) -> None:
    """Runs a script with what a tenant's proxy has: its uid, in its directory."""
    folder = directory(town, name)
    uid = str(folder.stat().st_uid)
    assert uid != "0"
    command = ("setpriv", "--reuid", uid, "--regid", uid, "--clear-groups", "--no-new-privs")
    done = subprocess.run(
        [*command, "sh", "-ec", script], cwd=folder, capture_output=True, timeout=60
    )
    assert done.returncode == 0, done.stderr


def test_an_envoy_inherits_nothing(town: Town) -> None:
    """No map, lock or socket of the agent, nothing of its environment, no rights."""
    pid, agent = envoy_pid(town.node, "shop"), town.node.agent
    assert pid is not None and agent is not None
    files, agents = open_files(pid), open_files(agent.pid)
    logs = {str(directory(town, "shop") / name) for name in ("access.log", "envoy.log")}
    assert files & agents <= {"/dev/null", *(f"anon_inode:{name}" for name in KERNEL_OBJECTS)}
    kinds = {name.partition(":")[2] for name in files if name.startswith("anon_inode:")}
    assert kinds <= set(KERNEL_OBJECTS)
    assert {name for name in files if name.startswith("/")} <= {"/dev/null", *logs}
    environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    assert {entry.partition(b"=")[0] for entry in environment if entry} <= {
        b"PATH",
        b"PWD",
        b"OLDPWD",
    }
    text = Path(f"/proc/{pid}/status").read_text()
    status = dict(line.split(":\t", 1) for line in text.splitlines())
    assert {int(status[name], 16) for name in ("CapPrm", "CapEff", "CapBnd")} == {NET_RAW}
    assert status["NoNewPrivs"] == "1" and not status["Groups"].strip()
    assert set(status["Uid"].split()) == {str(directory(town, "shop").stat().st_uid)}


@pytest.mark.parametrize(
    "attack",
    [
        "head -c 200000 /dev/zero | tr '\\0' '[' | tee proxy.json > lds.json",
        "rm proxy.json lds.json admin.sock; mkdir -p {proxy.json,lds.json,admin.sock}/full",
        "rm proxy.json lds.json envoy.log; mkfifo proxy.json lds.json envoy.log",
        "ln -sf /etc/hostname proxy.json; ln -sf /etc/hostname envoy.log",
    ],
    ids=["endless", "folders", "pipes", "links"],
)
def test_what_a_proxy_leaves_keeps_no_agent_from_starting(town: Town, attack: str) -> None:
    node, before = town.node, Path("/etc/hostname").stat()
    node.stop_agent(signal.SIGKILL)
    as_proxy(town, "shop", f"exec bash -ec {json.dumps(attack)}")
    listed = node.sluice("proxy", "list", "-o", "json")
    assert listed.returncode == 0, listed.stderr
    node.start_agent()
    after = Path("/etc/hostname").stat()
    assert (after.st_uid, after.st_mode, after.st_mtime) == (
        before.st_uid,
        before.st_mode,
        before.st_mtime,
    )


def test_a_forged_record_ends_no_other_process(town: Town) -> None:
    """Shop's record names bank's Envoy; shop is started anew, bank's goes on."""
    node = town.node
    bank = record.read(str(directory(town, "bank")))
    assert bank is not None
    node.stop_agent(signal.SIGKILL)
    as_proxy(town, "shop", f"cat > proxy.json <<'END'\n{record.encode(bank)}\nEND")
    listed = json.loads(node.sluice("proxy", "list", "-o", "json").stdout)
    assert [(row["tenant"], row["pid"]) for row in listed] == [("bank", bank.pid), ("shop", None)]
    node.start_agent()
    await_served(town, "shop")
    assert envoy_pid(node, "bank") == bank.pid


def test_nothing_of_a_removed_proxy_lives_on(town: Town) -> None:
    """Neither a process that it has started, nor the deepest folder: its uid will be another's."""
    node, folder = town.node, directory(town, "shop")
    uid = folder.stat().st_uid
    cgroup = cgroup_of(load_agent_config(node.config)) / "proxy-shop"
    start = f"echo $$ > {cgroup}/cgroup.procs; exec setpriv --reuid {uid} sleep 1000"
    with subprocess.Popen(["sh", "-c", start]) as left:
        wait_for(lambda: procfs.owner(left.pid) == uid, "the process")
        as_proxy(town, "shop", "for i in $(seq 1500); do mkdir d; cd d; done")
        try:
            node.apply("tenants.yaml", tenant("bank", 80, failure_mode="open"))
            wait_for(lambda: not folder.exists(), "its folder to go", 20)
            assert left.poll() == -signal.SIGKILL
            assert not cgroup.exists()
        finally:
            left.kill()
            node.apply("tenants.yaml", *TENANTS)


def test_a_workload_has_no_other_interface_removed(town: Town) -> None:
    """Its new eth0 claims that its other end is that of a neighbour."""
    node, host, state = town.node, town.hosts["client"], town.node.state
    assert state is not None
    victim = next(one for one in state.workloads if one.key == "bank/teller")
    with Netlink(host.path) as inside:
        end = inside.link("eth0")
        assert end is not None
        inside.delete_link(end.index)
    forged = f"ip link add eth0 index {end.index} type veth peer other index {victim.ifindex}"
    assert host.run(*forged.split()).returncode == 0
    node.apply("tenants.yaml", *TENANTS, tenant("third"))
    await_served(town, "shop")
    with Netlink(node.path) as netlink:
        link = netlink.link(victim.interface)
    assert link is not None and link.index == victim.ifindex
