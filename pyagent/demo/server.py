"""A server for the demo and the tests: HTTP/1.1 and HTTP/2 on one port, TCP and UDP echo.

Run inside a workload's namespace as `python -m pyagent.demo.server --http 80 --tcp 5432`. It
listens on IPv4 and IPv6, prints "ready" when it does, and names the client's address in all its
answers: what the client sees is what the server saw.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import socket
from ipaddress import ip_address
from typing import Any
from urllib.parse import parse_qs

from hypercorn.asyncio import serve
from hypercorn.config import Config

_CHUNK = 65_536


def plain_address(text: str) -> str:
    """An address as people write it: IPv4 without the IPv6 mapping."""
    address = ip_address(text.split("%")[0])
    mapped = getattr(address, "ipv4_mapped", None)
    return str(mapped or address)


def download(size: int) -> bytes:
    """The first `size` bytes of a stream that both ends can make: SHAKE-128 of the size."""
    return hashlib.shake_128(str(size).encode()).digest(size)


async def _body(receive: Any) -> bytes:
    parts = []
    while True:
        message = await receive()
        parts.append(message.get("body", b""))
        if not message.get("more_body"):
            return b"".join(parts)


async def application(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """`/download?bytes=N[&rate=BYTES_PER_S]` streams; anything else answers with JSON about the
    request: client, method, path, protocol, headers, and the body's size and SHA-256."""
    if scope["type"] != "http":
        return
    query = parse_qs(scope["query_string"].decode())
    if scope["path"] == "/download":
        await _stream(send, int(query["bytes"][0]), float(query.get("rate", ["0"])[0]))
        return
    body = await _body(receive)
    answer = {
        "client": plain_address(scope["client"][0]),
        "client_port": scope["client"][1],
        "method": scope["method"],
        "path": scope["path"],
        "protocol": f"HTTP/{scope['http_version']}",
        "headers": [[part.decode("latin1") for part in header] for header in scope["headers"]],
        "bytes": len(body),
        "sha256": hashlib.sha256(body).hexdigest(),
    }
    text = (json.dumps(answer) + "\n").encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(text))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": text})


async def _stream(send: Any, size: int, rate: float) -> None:
    headers = [(b"content-length", b"%d" % size)]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    content = memoryview(download(size))
    for at in range(0, size, _CHUNK):
        part = bytes(content[at : at + _CHUNK])
        await send({"type": "http.response.body", "body": part, "more_body": True})
        if rate:
            await asyncio.sleep(len(part) / rate)
    await send({"type": "http.response.body", "body": b""})


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """First a line with the client's address, as server-first protocols do, then what it says."""
    writer.write(plain_address(writer.get_extra_info("peername")[0]).encode() + b"\n")
    try:
        while data := await reader.read(_CHUNK):
            writer.write(data)
            await writer.drain()
    except ConnectionError:
        pass
    finally:
        writer.close()


class _Datagrams(asyncio.DatagramProtocol):
    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def datagram_received(self, data: bytes, address: Any) -> None:
        """Answers with the client's address, a space, and the datagram."""
        self._transport.sendto(plain_address(address[0]).encode() + b" " + data, address)


def _listen(kind: socket.SocketKind, port: int) -> socket.socket:
    """A socket for both families."""
    both = socket.socket(socket.AF_INET6, kind)
    both.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    both.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    both.bind(("::", port))
    if kind is socket.SOCK_STREAM:
        both.listen(1024)
    both.setblocking(False)
    return both


async def run(http: list[int], tcp: list[int], udp: list[int]) -> None:
    """Serves until it is killed."""
    loop = asyncio.get_running_loop()
    for port in tcp:
        await asyncio.start_server(_echo, sock=_listen(socket.SOCK_STREAM, port))
    for port in udp:
        await loop.create_datagram_endpoint(_Datagrams, sock=_listen(socket.SOCK_DGRAM, port))
    config = Config()
    config.bind = [f"fd://{_listen(socket.SOCK_STREAM, port).detach()}" for port in http]
    config.keep_alive_timeout = 600
    config.keep_alive_max_requests = 10**9  # it drops what is under way when it gets there
    config.h2_max_concurrent_streams = 1000
    config.loglevel = "ERROR"
    print("ready", flush=True)
    if http:
        await serve(application, config)  # type: ignore[arg-type]
    else:
        await asyncio.Event().wait()


def main() -> None:
    """Reads the ports from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("http", "tcp", "udp"):
        parser.add_argument(f"--{name}", type=int, action="append", default=[], metavar="PORT")
    ports = parser.parse_args()
    asyncio.run(run(ports.http, ports.tcp, ports.udp))


if __name__ == "__main__":
    main()
