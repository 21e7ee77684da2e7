"""What the life-cycle tests share: two tenants with a server and a client each, and what stands in
kernel and processes whatever becomes of the agent."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any

from l7proxy import procfs, record
from pyagent.errors import KernelError
from pyagent.kernel import abi, bpf, pins
from pyagent.kernel.netlink import Hook, Netlink
from pyagent.kernel.wiring import Wiring
from tests.netns.load import Flow
from tests.netns.node import Netns, Node, policy, tenant, workload
from tests.netns.traffic import http

ADDRESSES = {
    "web": ("10.201.0.1", "fd00:201::1"),
    "client": ("10.201.0.2", "fd00:201::2"),
    "teller": ("10.202.0.1", "fd00:202::1"),
    "clerk": ("10.202.0.2", "fd00:202::2"),
}
SPACES = {"shop": ("web", "client"), "bank": ("teller", "clerk")}

# Ports: 80 is handed off, 8080 is HTTP at layer 4, 5000 echoes.
TENANTS = (tenant("shop", 80), tenant("bank", 80, failure_mode="open"))
POLICIES = tuple(
    policy(space, "own", ingress=[{"from": [{"podSelector": {}}]}]) for space in SPACES
)


@dataclass(frozen=True)
class Town:
    """The node and its hosts: "web" and "client" of shop, which fails closed; "teller" and "clerk"
    of bank, which fails open. Each namespace lets in only its own."""

    node: Node
    hosts: dict[str, Netns]

    def workload(self, name: str, **spec: Any) -> dict[str, Any]:
        """A host's Workload manifest."""
        [space] = [space for space, names in SPACES.items() if name in names]
        return workload(self.hosts[name], space, name, ADDRESSES[name], **spec)

    def flows(self, client: str, server: str, pause: float = 0.02) -> tuple[Flow, ...]:
        """Everything that a client may ask of its server: handed off and not."""
        (to4, to6), (me4, me6) = ADDRESSES[server], ADDRESSES[client]
        return (
            Flow("http1", to4, 80, me4, pause),
            Flow("http1 new", to6, 80, me6, pause),
            Flow("http1 new", to4, 80, me4, pause),
            Flow("http2", to6, 80, me6, pause),
            Flow("tcp", to4, 5000, me4, pause),
            Flow("tcp new", to6, 5000, me6, pause),
            Flow("udp", to4, 5000, me4, pause),
        )


def build(node: Node) -> Town:
    """Manifests, agent, servers."""
    town = Town(node, {name: node.host(name) for name in ADDRESSES})
    node.write("tenants.yaml", *TENANTS)
    node.write("policies.yaml", *POLICIES)
    node.write("workloads.yaml", *map(town.workload, ADDRESSES))
    node.start_agent()
    for name in ("web", "teller"):
        town.hosts[name].serve(http=[80, 8080], tcp=[5000], udp=[5000])
    return town


# --- what stands ---


def envoy_pid(node: Node, name: str) -> int | None:
    """Pid of a tenant's Envoy, by its record; None when that process is gone."""
    note = record.read(str(node.state_dir / "proxies" / name))
    if note is None or procfs.start_time(note.pid) != note.start_time:
        return None
    return note.pid if procfs.executable(note.pid) == note.envoy else None


def map_ids(node: Node) -> dict[str, int]:
    """The pinned maps' kernel ids."""
    found = {}
    for path in pins.pin_directory(node.state_dir).iterdir():
        if path.is_file():
            pinned = bpf.Map(bpf.open_pin(path))
            found[path.name] = pinned.info.id
            pinned.close()
    return found


def filters(node: Node) -> dict[tuple[str, Hook], int]:
    """Ids of our programs on every interface of the node and of its proxies' namespaces."""
    wiring = Wiring(node.state_dir)
    spaces = [Path(node.path), *Path("/run/netns").glob(wiring.proxy_namespace("*"))]
    found = {}
    for space in spaces:
        # a proxy's namespace may go meanwhile
        with suppress(KernelError), Netlink(str(space)) as netlink:
            for link in netlink.links():
                for hook, program in netlink.attached(link.index).items():
                    found[f"{space.name}/{link.name}/{link.index}", hook] = program
    return found


@dataclass(frozen=True)
class Standing:
    """What a restarted agent must find and leave as it is."""

    maps: dict[str, int]
    filters: dict[tuple[str, Hook], int]
    proxies: dict[str, int | None]
    revision: int
    rows: Any


def standing(node: Node, *tenants: str) -> Standing:
    """What stands now."""
    with node.tables() as tables:
        return Standing(
            maps=map_ids(node),
            filters=filters(node),
            proxies={name: envoy_pid(node, name) for name in tenants},
            revision=tables.revision,
            rows=tables.read(),
        )


def counts(node: Node) -> dict[tuple[str, str], int]:
    """Everything that only ever grows: counters, stats, and the packets of each flow.

    A flow is named with the moment of its birth, so that one that is forgotten is missed.
    """
    found = {}
    with node.tables() as tables:
        for name in ("counters", "stats"):
            for key, value in tables[name].records():
                for field, number in value.items():
                    found[name, f"{key} {field}"] = int(number)
        for key, value in tables["conntrack"].records():
            for way, number in enumerate(value["packets"]):
                found["conntrack", f"{key} {value['created']} {way}"] = number
    return found


def assert_grown(before: dict[tuple[str, str], int], after: dict[tuple[str, str], int]) -> None:
    """Nothing was set back or forgotten."""
    shrunk = {key: (n, after.get(key)) for key, n in before.items() if after.get(key, -1) < n}
    assert not shrunk, shrunk


def stat(node: Node, name: str) -> int:
    """One of the STATS of bpf/abi.h."""
    [number] = [stat.number for stat in abi.load().lists["STATS"] if stat.name == name]
    with node.tables() as tables:
        return int((tables["stats"].get({"index": number}) or {})["value"])


@contextmanager
def sampled(look: Callable[[], object], every: float = 0.001) -> Iterator[set[object]]:
    """Everything that `look` returned during the block, by looking again and again."""
    seen: set[object] = set()
    done = threading.Event()

    def work() -> None:
        while not done.wait(every):
            seen.add(look())

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield seen
    finally:
        done.set()
        thread.join()


def serves(host: Netns, to: str) -> bool:
    """Whether a request on a new connection is answered."""
    with suppress(OSError, HTTPException):
        return http(host, to).status == 200
    return False
