"""The agent killed in the middle of a download, and started again on what it left behind.

Called by `run`. What must stay the same over a restart is read from the kernel and the proxies'
records before and after it.
"""

from __future__ import annotations

import hashlib
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO

from l7proxy.status import read_status
from pyagent.demo import places
from pyagent.demo.attempts import DOWNLOAD, FIRST_PORT, curl, prepare
from pyagent.demo.report import Row
from pyagent.demo.server import download
from pyagent.demo.witness import Witness
from pyagent.demo.world import World
from pyagent.flowevent import FlowEvent
from pyagent.kernel import pins
from pyagent.kernel.netlink import Netlink, namespace_path
from pyagent.kernel.tables import Tables
from pyagent.kernel.wiring import Wiring
from pyagent.proxies import proxies_directory

_BYTES = 24 << 20
_RATE = 16 << 20  # bytes a second, at most
_KILL_AT = _BYTES // 3
_ENDS_WITHIN = 30
_CHUNK = 1 << 16
_PORT = FIRST_PORT + 500
_INTACT, _ADOPTED = "intact", "adopted"


@dataclass(frozen=True, slots=True)
class _Snapshot:
    """What outlives an agent: ids of the attached programs, Envoys' pids, packets counted."""

    programs: frozenset[int]
    proxies: tuple[int | None, ...]
    counters: dict[tuple[object, ...], int]

    @property
    def packets(self) -> int:
        """All packets counted."""
        return sum(self.counters.values())


class Restart:
    """One killing and one restart of a world's agent."""

    def __init__(self, world: World) -> None:
        """Remembers what is to stay."""
        self._world = world
        self._before = _snapshot(world)

    def download(self, witness: Witness) -> Row:
        """Downloads through the handoff; the agent gets SIGKILL after a third of it."""
        world, agent = self._world, self._world.agent_pid
        flow = prepare(DOWNLOAD, _PORT, world.addresses).flow
        path = f"/download?bytes={_BYTES}&rate={_RATE}"
        command = curl(DOWNLOAD.way, flow, path, "--fail", "-m", str(_ENDS_WITHIN))
        begun = time.monotonic()
        digest = hashlib.sha256()
        with places.start(world.namespace(DOWNLOAD.who), command, subprocess.PIPE) as client:
            assert client.stdout is not None
            early = _read(client.stdout, digest.update, _KILL_AT)
            event = witness.event(flow)
            world.kill_agent()
            got = early + _read(client.stdout, digest.update, _BYTES)
            status = client.wait()
        seconds = time.monotonic() - begun
        seen = _seen(event, early, got, digest.digest(), status)
        why = (
            f"agent (pid {agent}) killed at {100 * early // _BYTES} %, "
            f"proxy of {event.tenant if event else '?'}, SHA-256 of {got >> 20} MiB compared"
        )
        what = "download, agent killed"
        return Row(DOWNLOAD.who, DOWNLOAD.whom, what, _INTACT, seen, why, seconds, seen == _INTACT)

    def adopt(self) -> Row:
        """Starts the agent and compares what it works with now to what was there before."""
        begun = time.monotonic()
        self._world.start_agent()
        seconds = time.monotonic() - begun
        before, now = self._before, _snapshot(self._world)
        changed = [
            word
            for word, same in (
                ("programs", now.programs == before.programs),
                ("proxies", now.proxies == before.proxies and None not in now.proxies),
                ("counters", all(now.counters.get(k, 0) >= n for k, n in before.counters.items())),
            )
            if not same
        ]
        seen = f"new {', '.join(changed)}" if changed else _ADOPTED
        why = (
            f"{len(now.programs)} programs attached, "
            f"Envoy pids {', '.join(map(str, now.proxies))}, "
            f"packets counted {before.packets} -> {now.packets}"
        )
        what = "started again"
        return Row("agent", "kernel, proxies", what, _ADOPTED, seen, why, seconds, not changed)


def _seen(event: FlowEvent | None, early: int, got: int, digest: bytes, status: int) -> str:
    """What became of the download, in words."""
    if event is None or event.verdict != "handoff":
        return "not handed off"
    if not 0 < early < _BYTES:
        return "no download to interrupt"
    if got != _BYTES or status:
        return f"broken off at {100 * got // _BYTES} % (curl {status})"
    same = digest == hashlib.sha256(download(_BYTES)).digest()
    return _INTACT if same else "damaged"


def _read(stream: IO[bytes], take: Callable[[bytes], object], most: int) -> int:
    """Reads at least `most` bytes, or what there is until the end; how many it were."""
    got = 0
    while got < most and (chunk := stream.read(_CHUNK)):
        take(chunk)
        got += len(chunk)
    return got


def _snapshot(world: World) -> _Snapshot:
    wiring = Wiring(places.STATE)
    namespaces = [wiring.proxy_namespace(tenant) for tenant in world.tenants]
    programs = [_attached(name) for name in (places.NODE_NAMESPACE, *namespaces)]
    with Tables(pins.pin_directory(places.STATE)) as tables:
        counters = {
            tuple(key.values()): int(value["packets"])
            for key, value in tables["counters"].records()
        }
    directories = (proxies_directory(places.STATE) / tenant for tenant in world.tenants)
    statuses = (read_status(str(directory)) for directory in directories)
    return _Snapshot(
        frozenset().union(*programs),
        tuple(status.pid if status else None for status in statuses),
        counters,
    )


def _attached(namespace: str) -> frozenset[int]:
    """Ids of our programs on the interfaces of a network namespace."""
    found: set[int] = set()
    with Netlink(str(namespace_path(namespace))) as netlink:
        for link in netlink.links():
            if link.kind == "veth":
                found |= set(netlink.attached(link.index).values())
    return frozenset(found)
