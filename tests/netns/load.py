"""A load of requests that goes on while things happen, every answer checked.

`Load` is the test's side. Run as a module it is the other side, inside the client's namespace:
flows side by side, each one request after another, until it is told to stop; then it prints what
each has seen. An exchange that fails, or brings a wrong answer, is a failure whatever the cause;
the flow goes on with a new connection. Times are CLOCK_MONOTONIC, which both sides share.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import signal
import socket
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from types import TracebackType
from typing import Any

import h2.config
import h2.connection
import h2.events

from tests.netns.node import Netns

PATIENCE = 5.0  # seconds for one exchange

Exchange = Callable[[bytes], Awaitable[None]]


@dataclass(frozen=True)
class Flow:
    """One stream of requests. `kind` is a key of KINDS, `pause` the seconds between two."""

    kind: str
    address: str
    port: int
    client: str
    pause: float = 0.01

    @property
    def name(self) -> str:
        return f"{self.kind} to {self.address}:{self.port}"


@dataclass
class Report:
    """What one flow has seen; a failure is (when, what), `slowest` in seconds."""

    good: int = 0
    slowest: float = 0.0
    failures: list[tuple[float, str]] = field(default_factory=list)


class Load:
    """Flows from one host, from the end of `__enter__` to `stop`; `reports` is by the flow's name.

    Every flow has had an answer before the block begins.
    """

    def __init__(self, host: Netns, *flows: Flow) -> None:
        self._host = host
        self._flows = flows
        self.reports: dict[str, Report] = {}

    def __enter__(self) -> Load:
        flows = json.dumps([asdict(flow) for flow in self._flows])
        self._process = self._host.start(sys.executable, "-m", "tests.netns.load", flows)
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line == "ready\n", line + self._process.stdout.read()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._process.poll() is None:
            self.stop()

    def stop(self) -> dict[str, Report]:
        """Ends the load once each exchange under way is done."""
        self._process.send_signal(signal.SIGTERM)
        out, _ = self._process.communicate(timeout=PATIENCE + 10)
        found = json.loads(out)
        self.reports = {
            name: Report(**{**report, "failures": [tuple(f) for f in report["failures"]]})
            for name, report in found.items()
        }
        return self.reports

    def stop_unharmed(self) -> int:
        """`stop`; fails unless nothing was lost. How many exchanges there were."""
        reports = self.stop()
        failed = {name: report.failures for name, report in reports.items() if report.failures}
        assert not failed, failed
        assert all(report.good > 1 for report in reports.values()), reports
        return sum(report.good for report in reports.values())


# --- the other side ---


class Wrong(Exception):
    """An answer that is not the one to this request."""


def _check(flow: Flow, body: bytes, sent: bytes) -> None:
    answer = json.loads(body)
    if answer["client"] != flow.client:
        raise Wrong(f"the server saw {answer['client']}")
    if answer["sha256"] != hashlib.sha256(sent).hexdigest():
        raise Wrong("the server got another body")


class Connection:
    """A connection that lasts; it is made again after a failure."""

    def __init__(self, flow: Flow) -> None:
        self.flow = flow
        self.reader: asyncio.StreamReader | None = None
        self.writer: asyncio.StreamWriter | None = None

    async def open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self.reader is None or self.writer is None:
            self.reader, self.writer = await asyncio.open_connection(
                self.flow.address, self.flow.port
            )
            await self.begin(self.reader, self.writer)
        return self.reader, self.writer

    async def begin(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """What comes before the first request."""

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()
        self.reader = self.writer = None


class Http1(Connection):
    async def exchange(self, sent: bytes) -> None:
        reader, writer = await self.open()
        host = f"[{self.flow.address}]" if ":" in self.flow.address else self.flow.address
        head = f"POST /load HTTP/1.1\r\nhost: {host}\r\ncontent-length: {len(sent)}\r\n\r\n"
        writer.write(head.encode() + sent)
        status, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        fields = {name.lower(): text for name, _, text in (line.partition(": ") for line in lines)}
        body = await reader.readexactly(int(fields.get("content-length", "0")))
        if " 200 " not in f"{status} ":
            raise Wrong(f"{status} {body[:100]!r}")
        if fields.get("connection", "") == "close":
            raise Wrong("the connection was to be closed")
        _check(self.flow, body, sent)


class Http2(Connection):
    async def begin(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.http = h2.connection.H2Connection(h2.config.H2Configuration())
        self.http.initiate_connection()

    async def exchange(self, sent: bytes) -> None:
        reader, writer = await self.open()
        stream = self.http.get_next_available_stream_id()
        head = [
            *((":method", "POST"), (":path", "/load"), (":scheme", "http")),
            (":authority", self.flow.address),
        ]
        self.http.send_headers(stream, head)
        self.http.send_data(stream, sent, end_stream=True)
        body = b""
        done = False
        while not done:
            writer.write(self.http.data_to_send())
            data = await reader.read(65_536)
            if not data:
                raise Wrong("the connection ended")
            for event in self.http.receive_data(data):
                match event:
                    case h2.events.ResponseReceived():
                        if dict(event.headers)[b":status"] != b"200":
                            raise Wrong(str(event.headers))
                    case h2.events.DataReceived():
                        self.http.acknowledge_received_data(event.flow_controlled_length, stream)
                        body += event.data
                    case h2.events.StreamReset() | h2.events.ConnectionTerminated():
                        raise Wrong(str(event))
                    case h2.events.StreamEnded():
                        done = True
        writer.write(self.http.data_to_send())
        _check(self.flow, body, sent)


class Tcp(Connection):
    """The demo's echo server, which greets with the client's address."""

    async def begin(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen = (await reader.readline()).decode().strip()
        if seen != self.flow.client:
            raise Wrong(f"the server saw {seen!r}")

    async def exchange(self, sent: bytes) -> None:
        reader, writer = await self.open()
        writer.write(sent)
        if await reader.readexactly(len(sent)) != sent:
            raise Wrong("other bytes came back")


class Udp(Connection):
    """One datagram after another; one that is lost is a failure."""

    socket: socket.socket | None = None

    async def exchange(self, sent: bytes) -> None:
        loop = asyncio.get_running_loop()
        if self.socket is None:
            family = socket.AF_INET6 if ":" in self.flow.address else socket.AF_INET
            self.socket = socket.socket(family, socket.SOCK_DGRAM)
            self.socket.setblocking(False)
            self.socket.connect((self.flow.address, self.flow.port))
        await loop.sock_sendall(self.socket, sent)
        back = await loop.sock_recv(self.socket, 65_536)
        if back != self.flow.client.encode() + b" " + sent:
            raise Wrong(f"{back[:60]!r} came back")

    def close(self) -> None:
        if self.socket is not None:
            self.socket.close()
        self.socket = None


KINDS: dict[str, tuple[type[Connection], bool]] = {  # and whether each exchange has a new one
    "http1": (Http1, False),
    "http1 new": (Http1, True),
    "http2": (Http2, False),
    "http2 new": (Http2, True),
    "tcp": (Tcp, False),
    "tcp new": (Tcp, True),
    "udp": (Udp, False),
}


async def _flow(flow: Flow, report: Report, stop: asyncio.Event) -> None:
    make, anew = KINDS[flow.kind]
    connection: Any = make(flow)
    number = 0
    while not stop.is_set():
        number += 1
        sent = f"{flow.name} {number} ".encode() * 10
        begun = time.monotonic()
        try:
            await asyncio.wait_for(connection.exchange(sent), PATIENCE)
            report.good += 1
            report.slowest = max(report.slowest, time.monotonic() - begun)
            failed = False
        except Exception as error:
            report.failures.append((begun, f"request {number}: {type(error).__name__}: {error}"))
            failed = True
        if anew or failed:
            connection.close()
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(stop.wait(), flow.pause)
    connection.close()


async def main(flows: list[Flow]) -> None:
    """Runs them until SIGTERM."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    reports = {flow.name: Report() for flow in flows}
    tasks = [asyncio.create_task(_flow(flow, reports[flow.name], stop)) for flow in flows]
    deadline = time.monotonic() + PATIENCE
    while not all(report.good for report in reports.values()):
        if time.monotonic() > deadline:
            sys.exit(f"no answer: {reports}")
        await asyncio.sleep(0.01)
    print("ready", flush=True)
    await asyncio.gather(*tasks)
    print(json.dumps({name: asdict(report) for name, report in reports.items()}))


if __name__ == "__main__":
    asyncio.run(main([Flow(**flow) for flow in json.loads(sys.argv[1])]))
