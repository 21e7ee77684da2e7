"""Sends made frames as fast as one core can, and counts what arrives. Called by `policy`.

The sender's core carries each frame through the whole path: the node's and the server's part run
in the softirq that the sending call raises. The kernel counts that as the sender's time, so
packets a second of the thread's own CPU time say what one core can forward, and say it also on a
machine that does other things besides.
"""

from __future__ import annotations

import json
import socket
import time

from pyagent.kernel.namespaces import entered
from tests.bench.frames import Batch, Stream, frame
from tests.bench.places import Place

_SOL_PACKET, _PACKET_QDISC_BYPASS = 263, 20

# Takes all UDP from the wire and counts it, so that the server's stack costs nothing.
_SINK = """table netdev bench {
  chain sink {
    type filter hook ingress device eth0 priority 0
    meta l4proto udp counter drop
  }
}"""


def _packet_socket(namespace: str) -> socket.socket:
    """A socket that puts whole frames onto eth0 of a namespace."""
    with entered(namespace):
        made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        made.setsockopt(_SOL_PACKET, _PACKET_QDISC_BYPASS, 1)
        made.bind(("eth0", 0))
    return made


class Flood:
    """Sender and counter of one place."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._out = _packet_socket(place.client.path)
        self._back = _packet_socket(place.server.path)
        done = place.server.run("nft", _SINK)
        assert done.returncode == 0, done.stderr

    def batch(self, stream: Stream, total: int) -> Batch:
        """`total` frames of a stream."""
        ends = self._place.there
        frames = [frame(ends, port, stream.destination) for port in stream.sources]
        return Batch((frames * (total // len(frames) + 1))[:total])

    def establish(self, stream: Stream) -> None:
        """One packet each way of every flow, after which connection tracking knows it."""
        self.batch(stream, stream.ports).send(self._out)
        ends = self._place.back
        Batch([frame(ends, stream.destination, port) for port in stream.sources]).send(self._back)

    def rate(self, batch: Batch, arrive: bool) -> float:
        """Sends a batch, of which all is to arrive or nothing; packets a second of CPU time."""
        before = self._arrived()
        begun = time.thread_time()
        batch.send(self._out)
        elapsed = time.thread_time() - begun
        came = (self._arrived() - before) / batch.count
        # a softirq put off on a busy machine may overflow its backlog
        assert came > 0.95 if arrive else came == 0, f"{self._place.name}: {came:.1%} arrived"
        return batch.count / elapsed

    def _arrived(self) -> int:
        """How many datagrams the server's interface has taken in so far."""
        done = self._place.server.run("nft", "-j", "list", "table", "netdev", "bench")
        for entry in json.loads(done.stdout)["nftables"]:
            for part in entry.get("rule", {}).get("expr", ()):
                if "counter" in part:
                    return int(part["counter"]["packets"])
        raise LookupError("the sink has no counter")

    def close(self) -> None:
        """Closes the sockets."""
        self._out.close()
        self._back.close()


class Connections:
    """TCP connections of one place, both ends in this thread: the handshake is done by the time
    that connect(2) returns, so that its CPU time is all of the connection's."""

    def __init__(self, place: Place, port: int) -> None:
        self._client = place.client.path
        self._address = (str(place.server_address), port)
        with entered(place.server.path):
            self._listener = socket.create_server(self._address, backlog=16)

    def rate(self, count: int) -> float:
        """Opens and closes so many in a row; connections a second of CPU time."""
        with entered(self._client):
            begun = time.thread_time()
            for _ in range(count):
                client = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
                client.connect(self._address)
                server, _ = self._listener.accept()
                server.close()  # first, so that TIME-WAIT keeps no client's port
                client.close()
            return count / (time.thread_time() - begun)

    def close(self) -> None:
        """Closes the listener."""
        self._listener.close()
