"""The two ends of the proxy tests, run inside network namespaces.

`serve PORT` answers HTTP/1.1 and HTTP/2 (prior knowledge) with an account of what arrived;
`send HOST PORT` passes its standard input and prints what comes back until the end;
`upgrade HOST PORT` sends a request, awaits the answer's head, then exchanges eight raw bytes.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
import socket
import sys
from typing import Any

import h2.config
import h2.connection
import h2.events

PREFACE = b"PRI * HTTP/2.0\r\n\r\n"
_numbers = itertools.count(1)


def pattern(length: int) -> bytes:
    """Bytes of which no two neighbouring kilobytes are alike."""
    return b"".join(b"%08d" % number for number in range(length // 8 + 1))[:length]


def account(writer: asyncio.StreamWriter, number: int, **what: Any) -> dict[str, Any]:
    """Who connected, by which connection, and what was asked."""
    return {
        "peer": writer.get_extra_info("peername")[0],
        "local": writer.get_extra_info("sockname")[0],
        "connection": number,
        **what,
    }


async def read_fields(reader: asyncio.StreamReader) -> list[list[str]]:
    """Header or trailer lines up to the empty one, as they were written."""
    fields = []
    while line := (await reader.readuntil(b"\r\n")).decode().rstrip("\r\n"):
        fields.append(line.split(": ", 1))
    return fields


async def read_body(reader: asyncio.StreamReader, fields: list[list[str]]) -> tuple[bytes, Any]:
    """The request's body and trailers."""
    known = {name.lower(): value for name, value in fields}
    if "chunked" not in known.get("transfer-encoding", ""):
        return await reader.readexactly(int(known.get("content-length", "0"))), []
    body = bytearray()
    while size := int(await reader.readuntil(b"\r\n"), 16):
        body += await reader.readexactly(size)
        await reader.readexactly(2)
    return bytes(body), await read_fields(reader)


async def answer_http1(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int, start: bytes
) -> bool:
    """Answer one request; whether another may follow on the connection."""
    line = (start + await reader.readuntil(b"\r\n")).decode().rstrip("\r\n")
    fields = await read_fields(reader)
    path = line.split(" ")[1]
    if line.startswith("CONNECT") or any(name.lower() == "upgrade" for name, _ in fields):
        first = (
            b"200 OK\r\n"
            if line.startswith("CONNECT")
            else (b"101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n")
        )
        writer.write(b"HTTP/1.1 " + first + b"\r\n")
        writer.write((await reader.readexactly(8))[::-1])
        return False
    body, trailers = await read_body(reader, fields)
    if path.startswith("/stream/"):
        content = pattern(int(path.rsplit("/", 1)[1]))
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n")
        for begin in range(0, len(content), 50_000):
            piece = content[begin : begin + 50_000]
            writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            await writer.drain()
        digest = hashlib.sha256(content).hexdigest()
        writer.write(f"0\r\nX-Sum: {digest}\r\n\r\n".encode())
        return True
    seen = account(
        writer,
        number,
        line=line,
        headers=fields,
        trailers=trailers,
        length=len(body),
        sha256=hashlib.sha256(body).hexdigest(),
    )
    content = json.dumps(seen).encode()
    head = "HTTP/1.1 200 Quite Fine\r\nServer: Peer/1\r\nX-MiXed: Kept\r\nDate: Thu\r\n"
    writer.write(f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content)
    return True


class Http2:
    """One HTTP/2 connection: each request is answered when it is whole, with a trailer."""

    def __init__(self, writer: asyncio.StreamWriter, number: int) -> None:
        self.writer = writer
        self.number = number
        self.bodies: dict[int, bytearray] = {}
        self.heads: dict[int, dict[str, Any]] = {}
        config = h2.config.H2Configuration(client_side=False, header_encoding="utf-8")
        self.h2 = h2.connection.H2Connection(config=config)
        self.h2.initiate_connection()

    def receive(self, data: bytes) -> None:
        """Take what came from the wire and write what follows from it."""
        for event in self.h2.receive_data(data):
            if isinstance(event, h2.events.RequestReceived):
                self.heads[event.stream_id] = {"headers": event.headers, "trailers": []}
                self.bodies[event.stream_id] = bytearray()
            elif isinstance(event, h2.events.TrailersReceived):
                self.heads[event.stream_id]["trailers"] = event.headers
            elif isinstance(event, h2.events.DataReceived):
                self.bodies[event.stream_id] += event.data
                self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            elif isinstance(event, h2.events.StreamEnded):
                self.answer(event.stream_id)
        self.writer.write(self.h2.data_to_send())

    def answer(self, stream: int) -> None:
        """Give the account of a whole request."""
        body = bytes(self.bodies.pop(stream))
        digest = hashlib.sha256(body).hexdigest()
        seen = account(
            self.writer, self.number, length=len(body), sha256=digest, **self.heads.pop(stream)
        )
        self.h2.send_headers(stream, [(":status", "200"), ("server", "Peer/2")])
        self.h2.send_data(stream, json.dumps(seen).encode())
        self.h2.send_headers(stream, [("x-sum", digest)], end_stream=True)


async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Serve one connection in the protocol that it begins with."""
    number = next(_numbers)
    try:
        start = await reader.readexactly(3)
        if start == PREFACE[:3]:
            http2 = Http2(writer, number)
            http2.receive(start)
            while data := await reader.read(65536):
                http2.receive(data)
                await writer.drain()
        else:
            while await answer_http1(reader, writer, number, start):
                await writer.drain()
                start = await reader.readexactly(3)
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()


async def serve(port: int) -> None:
    """Serve on IPv4 and IPv6; says so on standard output once it does."""
    servers = [await asyncio.start_server(handle, host, port) for host in ("0.0.0.0", "::")]
    print("serving", flush=True)
    await asyncio.gather(*(server.serve_forever() for server in servers))


def send(host: str, port: int) -> None:
    """Pass standard input to the other end and its answer to standard output."""
    with socket.create_connection((host, port), timeout=10) as connection:
        connection.sendall(sys.stdin.buffer.read())
        while data := connection.recv(65536):
            sys.stdout.buffer.write(data)


def upgrade(host: str, port: int) -> None:
    """Print the head of the answer to the request, then eight bytes that came back."""
    with socket.create_connection((host, port), timeout=10) as connection:
        connection.sendall(sys.stdin.buffer.read())
        stream = connection.makefile("rb")
        while (line := stream.readline()) not in (b"\r\n", b""):
            sys.stdout.buffer.write(line)
        connection.sendall(b"12345678")
        sys.stdout.buffer.write(stream.read(8))


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["serve", port]:
            asyncio.run(serve(int(port)))
        case ["send", host, port]:
            send(host, int(port))
        case ["upgrade", host, port]:
            upgrade(host, int(port))
