"""`sluice cleanup`: after it the machine is as it was before the agent came."""

from __future__ import annotations

import os
import random
import re
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from l7proxy import procfs
from pyagent.kernel.wiring import Wiring
from tests.netns import wires
from tests.netns.lifecycle import envoy_pid, standing
from tests.netns.load import Flow, Load
from tests.netns.node import Netns, Node, ip, policy, tenant, wait_for, workload
from tests.netns.traffic import http, ping, tcp, tcp_dropped

# "left" and "right" are wired by the user, with addresses as `wires.routed` gives them; "web" and
# "client" by Sluice.
LEFT, RIGHT = ("192.0.2.18", "2001:db8:1::2"), ("192.0.2.34", "2001:db8:2::2")
WEB, CLIENT = ("10.201.0.1", "fd00:201::1"), ("10.201.0.2", "fd00:201::2")
EARLY_KILLS = 4
COLD_START = 3.0  # seconds, about
_CHANGING = re.compile(r"(valid_lft|preferred_lft|expires) ?\w*|link-netnsid \d+")


@dataclass(frozen=True)
class Site:
    """The node and its hosts."""

    node: Node
    hosts: dict[str, Netns]

    def start(self, wait: bool = True) -> None:
        """Manifests for all four, and the agent."""
        node, hosts = self.node, self.hosts
        node.write(
            "all.yaml",
            tenant("shop", 80),
            tenant("bank", 80),
            workload(hosts["left"], "shop", "left", LEFT, netns=None, interface="up1"),
            workload(hosts["right"], "bank", "right", RIGHT, netns=None, interface="up2"),
            workload(hosts["web"], "shop", "web", WEB),
            workload(hosts["client"], "bank", "client", CLIENT),
            policy("bank", "right", ingress=[{"ports": [{"port": 80}, {"port": 5000}]}]),
        )
        node.start_agent(wait)

    def clean_up(self) -> None:
        done = self.node.sluice("cleanup")
        assert (done.returncode, done.stderr) == (0, "")


@pytest.fixture(scope="module")
def site(shared_node: Node) -> Iterator[Site]:
    node = shared_node
    hosts = {name: node.host(name) for name in ("left", "right", "web", "client")}
    wires.routed(node, "up1", hosts["left"], 1)
    wires.routed(node, "up2", hosts["right"], 2)
    for name in ("web", "client"):
        ip("-n", hosts[name].name, "link", "set", "lo", "up")
    hosts["right"].serve(http=[80], tcp=[5000, 5001], udp=[5000])
    for space in (node, *hosts.values()):
        wait_for(lambda: "tentative" not in ip("-n", space.name, "addr"), "addresses")  # noqa: B023
    yield Site(node, hosts)


Machine = dict[str, object]


def look(site: Site) -> Machine:
    """Everything that an agent may make, where it may make it."""
    node = site.node
    own = Wiring(node.state_dir).proxy_namespace("")  # what its namespaces' names begin with
    cgroups = Path(next(m for m in _mounts() if " - cgroup2 " in m).split()[4])
    found: Machine = {
        "namespaces": [p.name for p in Path("/run/netns").iterdir() if p.name.startswith(own)],
        "mounts": [m for m in _mounts() if str(node.state_dir) in m],
        "cgroups": [p.name for p in cgroups.iterdir() if p.name.startswith(own.rstrip("-"))],
        "proxies": [
            pid
            for name in ("shop", "bank")
            for pid in procfs.with_argument(f"{node.state_dir}/proxies/{name}/bootstrap.json")
        ],
        "files": [str(p) for d in (node.state_dir, node.run_dir) if d.exists() for p in [d]],
    }
    for space in (node, *site.hosts.values()):
        for command in (
            "addr",
            "route show table all",
            "-6 route show table all",
            "rule",
            "-6 rule",
            "neigh show nud permanent",
        ):
            text = ip("-n", space.name, *command.split())
            found[f"{space.name} {command}"] = sorted(_CHANGING.sub("", text).splitlines())
        found[f"{space.name} qdisc"] = space.run("tc", "qdisc").stdout
        for hook in ("ingress", "egress"):
            filters = [
                space.run("tc", "filter", "show", "dev", link, hook).stdout
                for link in ("up1", "up2", "eth0")
            ]
            found[f"{space.name} filters {hook}"] = [text for text in filters if "bpf" in text]
    return found


def _mounts() -> list[str]:
    return Path("/proc/self/mountinfo").read_text().splitlines()


def test_it_leaves_nothing_and_harms_no_traffic(site: Site) -> None:
    """Of workloads with an interface of their own, that is: the others lose theirs."""
    node, left = site.node, site.hosts["left"]
    before = look(site)
    assert tcp(left, RIGHT[0], 5001) == LEFT[0]
    site.start()
    during = look(site)
    assert {key for key in before if before[key] != during[key]} >= {
        *("namespaces", "mounts", "cgroups", "proxies", "files"),
        *(f"{node.name} {what}" for what in ("addr", "qdisc", "filters ingress")),
        f"{site.hosts['web'].name} addr",
    }
    tcp_dropped(node, "policy_ingress", left, RIGHT[0], 5001)
    flows = (
        Flow("tcp", RIGHT[0], 5000, LEFT[0]),
        Flow("tcp new", RIGHT[1], 5000, LEFT[1]),
    )
    with Load(left, *flows) as load:
        standing_still = standing(node, "shop", "bank")
        assert node.agent is not None
        refused = node.sluice("cleanup")
        line = f"sluice: an agent runs already with {node.run_dir} (pid {node.agent.pid})\n"
        assert (refused.returncode, refused.stdout, refused.stderr) == (1, "", line)
        assert standing(node, "shop", "bank") == standing_still
        node.stop_agent()
        site.clean_up()
        assert look(site) == before
        load.stop_unharmed()
    assert tcp(left, RIGHT[0], 5001) == LEFT[0]
    assert http(left, RIGHT[1]).said["client"] == LEFT[1]
    assert ping(left, RIGHT[0]) == RIGHT[0]
    site.clean_up()
    assert look(site) == before


def test_it_needs_no_record(site: Site) -> None:
    """After SIGKILL of everything, with the agent's files lost or spoiled, and a proxy's too."""
    node = site.node
    before = look(site)
    site.start()
    node.stop_agent(signal.SIGKILL)
    pid = envoy_pid(node, "shop")
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    (node.state_dir / "proxies/bank/proxy.json").unlink()
    (node.state_dir / "state.json").unlink()
    (node.state_dir / "numbers.json").write_text('{"identities": 7')
    site.clean_up()
    assert look(site) == before


@pytest.mark.timeout(200)
def test_killed_in_its_first_start(site: Site) -> None:
    """Wherever that was: it can be cleaned up, and it can be started again."""
    node, chance = site.node, random.Random(2)
    before = look(site)
    for number in range(EARLY_KILLS):
        site.start(wait=False)
        time.sleep(COLD_START * (number + chance.random()) / EARLY_KILLS)
        node.stop_agent(signal.SIGKILL)
        if number % 2:
            site.clean_up()
            assert look(site) == before
    site.start()
    site.hosts["web"].serve(http=[80])
    assert http(site.hosts["client"], WEB[0]).said["client"] == CLIENT[0]
    node.stop_agent()
    site.clean_up()
    assert look(site) == before
