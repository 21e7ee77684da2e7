"""Metrics: the kernel's maps read at each scrape, what the agent counts itself, and the endpoint.

The agent holds a `Metrics`, which it feeds, and serves a `NodeCollector` over it. Nothing that a
map tells is kept between two scrapes. Names and units follow Prometheus' conventions; a series
that can be known beforehand is there from the start, with 0.
"""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, make_wsgi_app
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from pyagent.errors import SluiceError
from pyagent.kernel import abi
from pyagent.kernel.tables import Table, Tables
from pyagent.model import Direction
from pyagent.state import NodeState

_log = logging.getLogger(__name__)

_ABI = abi.load()
_REASONS = {choice.number: choice.name.lower() for choice in _ABI.lists["DROP_REASONS"]}
_FORWARDED = 0  # the reason of a packet that lives
_STATS = {choice.name: choice.number for choice in _ABI.lists["STATS"]}
_BUCKETS = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_IDLE_SECONDS = 10  # a client that sends nothing is let go
_SHUTDOWN_POLL = 0.1
_LAST_PORT = 65_535


class Metrics(Collector):
    """What the agent counts itself. Every method may be called from any thread."""

    def __init__(self, version: str) -> None:
        self._build = GaugeMetricFamily(
            "sluice_build_info",
            "The version that runs, and its ABI; always 1.",
            labels=("version", "abi"),
        )
        self._build.add_metric((version, str(_ABI.version)), 1)
        self._reconcile = Histogram(
            "sluice_reconcile_seconds",
            "How long it took to put a change in force.",
            buckets=_BUCKETS,
            registry=None,
        )
        self._map_ops = Counter(
            "sluice_map_ops",
            "Operations on maps by the agent, by their outcome.",
            ("map", "operation", "outcome"),
            registry=None,
        )

    def observe_reconcile(self, seconds: float) -> None:
        """One reconciliation is done."""
        self._reconcile.observe(seconds)

    def map_op(self, map: str, operation: str, outcome: str, count: int = 1) -> None:
        """`count` operations ("update", "delete") on a map came out so ("ok", "full", "error")."""
        self._map_ops.labels(map, operation, outcome).inc(count)

    def collect(self) -> Iterable[Metric]:
        """The families, without the series that tell when each was made."""
        yield self._build
        for metric in (*self._reconcile.collect(), *self._map_ops.collect()):
            metric.samples = [s for s in metric.samples if not s.name.endswith("_created")]
            yield metric


class NodeCollector(Collector):
    """All families of one agent. `state` gives the state in force, for the tenants' names.

    `collect` raises KernelError when the maps cannot be read.
    """

    def __init__(self, pins: Path, state: Callable[[], NodeState], metrics: Metrics) -> None:
        self._pins = pins
        self._state = state
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        """Reads the maps once and gives what they tell."""
        with Tables(self._pins) as tables:
            return [
                *self._metrics.collect(),
                *_packets(tables["counters"]),
                *_stats(tables["stats"]),
                _pressure(tables),
                _proxy_ready(tables["tenants"], self._state()),
            ]


def _packets(counters: Table) -> Iterator[Metric]:
    """Drops and forwarded traffic, summed over all identities."""
    totals = {(reason, direction): (0, 0) for reason in _REASONS for direction in Direction}
    for key, value in counters.records():
        kind: Any = (key["reason"], key["direction"])
        packets, size = totals.get(kind, (0, 0))
        totals[kind] = (packets + value["packets"], size + value["bytes"])
    drops = CounterMetricFamily(
        "sluice_drop_count",
        "Packets dropped, by reason and by direction as the workload sees it.",
        labels=("reason", "direction"),
    )
    forwarded = CounterMetricFamily(
        "sluice_forward_count", "Packets forwarded.", labels=("direction",)
    )
    size_forwarded = CounterMetricFamily(
        "sluice_forward_bytes",
        "Bytes forwarded, link layer included.",
        labels=("direction",),
    )
    for (reason, number), (packets, size) in sorted(totals.items()):
        direction = Direction(number).name.lower()
        if reason == _FORWARDED:
            forwarded.add_metric((direction,), packets)
            size_forwarded.add_metric((direction,), size)
        else:
            drops.add_metric((_REASONS.get(reason, str(reason)), direction), packets)
    yield from (drops, forwarded, size_forwarded)


def _stats(stats: Table) -> Iterator[Metric]:
    def count(name: str) -> int:
        record = stats.get({"index": _STATS[name]}) or {}
        return int(record.get("value", 0))

    handoffs = CounterMetricFamily(
        "sluice_handoff",
        "Connections handed off to a proxy, at their SYN (early), by what made them so.",
        labels=("kind", "protocol"),
    )
    handoffs.add_metric(("early", "http"), count("HANDOFFS"))
    yield handoffs
    yield CounterMetricFamily(
        "sluice_failed_open",
        "Connections passed at layer 4 because the tenant's proxy was not ready.",
        value=count("FAILED_OPEN"),
    )
    yield CounterMetricFamily(
        "sluice_events_lost",
        "Flow events for which the ring buffer had no room.",
        value=count("EVENTS_LOST"),
    )


def _pressure(tables: Tables) -> Metric:
    """How full each map is; arrays, which always are, are left out.

    The kernel tells no count, so the entries are read in batches: half a microsecond each.
    """
    pressure = GaugeMetricFamily(
        "sluice_map_pressure", "Entries of a map as a part of its capacity.", labels=("map",)
    )
    for name, capacity in tables.capacities().items():
        if not tables[name].layout.type.endswith("array"):
            entries = sum(1 for _ in tables[name].map.entries())
            pressure.add_metric((name,), entries / capacity)
    return pressure


def _proxy_ready(tenants: Table, state: NodeState) -> Metric:
    """One series for each tenant that has a proxy."""
    ready = GaugeMetricFamily(
        "sluice_proxy_ready", "1 while connections go to the tenant's proxy.", labels=("tenant",)
    )
    for key, value in tenants.records():
        number: Any = key["tenant"]
        if value["proxy"]:
            ready.add_metric((state.tenants.get(number, str(number)),), int(bool(value["ready"])))
    return ready


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True

    def __init__(self, host: str, port: int) -> None:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        self.address_family = found[0][0]
        super().__init__(found[0][4][:2], _Handler)  # type: ignore[arg-type]

    def server_bind(self) -> None:
        """Binds without asking the resolver for this machine's name, as the base class does."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = self.server_address[:2]  # type: ignore[assignment]
        self.setup_environ()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up or sends nonsense is no event."""
        _log.debug("metrics: a request of %s failed", client_address, exc_info=True)


class _Handler(WSGIRequestHandler):
    timeout = _IDLE_SECONDS

    def log_message(self, format: str, *args: Any) -> None:
        """Logs no requests."""


def _application(collector: Collector) -> Callable[[dict[str, Any], Any], list[bytes]]:
    registry = CollectorRegistry()
    registry.register(collector)
    ProcessCollector(registry=registry)
    exposition: Any = make_wsgi_app(registry)

    def answer(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        status = "404 Not Found", b"the metrics are at /metrics\n"
        if environ["PATH_INFO"] == "/metrics":
            try:
                return list(exposition(environ, start_response))
            except SluiceError as error:
                _log.warning("metrics: %s", error)
                status = "503 Service Unavailable", f"{error}\n".encode()
        start_response(status[0], [("Content-Type", "text/plain; charset=utf-8")])
        return [status[1]]

    return answer


class Endpoint:
    """A serving HTTP endpoint; `port` is the one it has, also when it was asked for port 0."""

    def __init__(self, server: _Server) -> None:
        self._server = server
        self.port = int(server.server_port)
        self._thread = threading.Thread(
            target=server.serve_forever, args=(_SHUTDOWN_POLL,), name="metrics", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Ends the serving thread and frees the port; again is the same."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(1.0)


def serve(address: str, collector: Collector) -> Endpoint:
    """Serves the collector's metrics and the process's own on "HOST:PORT" ("[::1]:9464").

    SluiceError when nothing can be served there.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or int(port) > _LAST_PORT:
        raise SluiceError(f"metrics cannot be served on {address}: it is not HOST:PORT")
    try:
        server = _Server(host.removeprefix("[").removesuffix("]"), int(port))
    except OSError as error:
        raise SluiceError(f"metrics cannot be served on {address}: {error.strerror}") from None
    server.set_app(_application(collector))
    return Endpoint(server)
