"""What a verdict costs in the kernel: `from_workload` on made packets, ns a packet.

Called by `policy`. BPF_PROG_TEST_RUN measures inside the kernel and leaves out what the machine
does meanwhile. A flow that is known is not judged again, so packets of new flows go one at a time,
each from a port of its own; what is denied is judged each time, and can be repeated.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median

from pyagent.kernel import bpf
from pyagent.kernel.namespaces import entered
from tests.bench import cluster
from tests.bench.frames import Ends, frame
from tests.bench.places import Sluice
from tests.prog.node import context

_NEW_FLOWS = 2048
_REPEAT = 50_000
_PAIRS = 64
_REDIRECT, _SHOT = 7, 2  # TC_ACT_*
_DENIED_PORT = 6000


class Verdicts:
    """The program of one place, and packets for it."""

    def __init__(self, place: Sluice) -> None:
        self._place = place
        self._fd = place.agent.programs.fds["from_workload"]
        self._context = context(place.client_wired.index)
        self._pairs = _spread(place.size)
        self._pod = cluster.probe(place.size)[2]

    def _run(self, ends: Ends, source: int, port: int, repeat: int = 1) -> float:
        """ns a packet."""
        result = bpf.run(self._fd, frame(ends, source, port), self._context, repeat)
        wanted = _SHOT if port == _DENIED_PORT else _REDIRECT
        assert result.retval == wanted, f"{self._place.name}: the answer was {result.retval}"
        return result.duration

    def known(self) -> float:
        """A packet of a flow that is known."""
        with entered(self._place.node.path):
            return self._run(self._place.there, 1024, cluster.UDP_PORT, _REPEAT)

    def denied(self) -> float:
        """A packet that policy denies: judged and told each time."""
        with entered(self._place.node.path):
            return self._run(self._place.there, 1024, _DENIED_PORT, _REPEAT)

    def new(self) -> float:
        """The first packet of a flow, always from the same client to the same server."""
        self._place.forget()
        with entered(self._place.node.path):
            ports = range(1024, 1024 + _NEW_FLOWS)
            ends = self._place.there
            return median(self._run(ends, port, cluster.UDP_PORT) for port in ports)

    def new_anywhere(self) -> float:
        """The first packet of a flow, the clients and servers taken from all over the cluster."""
        self._place.forget()
        taken = []
        with entered(self._place.node.path), self._borrowed():
            for number in range(_NEW_FLOWS):
                client, server = self._pairs[number % len(self._pairs)]
                ends = Ends(self._place.there.macs, (client.v4(self._pod), server.v4(self._pod)))
                taken.append(self._run(ends, 1024 + number, cluster.UDP_PORT))
        return median(taken)

    @contextmanager
    def _borrowed(self) -> Iterator[None]:
        """Meanwhile all clients of the pairs live behind the one interface that there is."""
        table = self._place.agent.tables["local_addrs"]
        keys = [{"address": client.v4(self._pod)} for client, _ in self._pairs]
        rows = [table.get(key) for key in keys]
        for key, row in zip(keys, rows, strict=True):
            assert row is not None
            table.put(key, row | {"ifindex": self._place.client_wired.index})
        yield
        for key, row in zip(keys, rows, strict=True):
            assert row is not None
            table.put(key, row)


def _spread(size: cluster.Size) -> list[tuple[cluster.App, cluster.App]]:
    """Clients and servers that admit them, evenly from the whole cluster, the place's own pair
    first. None is on both sides."""
    own_client, own_server, _ = cluster.probe(size)
    pairs = [(own_client, own_server)]
    servers = list(cluster.apps(size))
    for server in servers[:: max(len(servers) // _PAIRS, 1)]:
        group = cluster.peers(server, 1)[-1]
        pairs.append((group[server.at % len(group)], server))
    clients, chosen = {own_client.at}, pairs[:1]
    for client, server in pairs[1:]:
        if server.at not in clients and client.at not in {one.at for _, one in chosen}:
            clients.add(client.at)
            chosen.append((client, server))
    return chosen
