"""Talking to Envoy's admin interface over its unix socket, blocking or under asyncio.

Used by `process`, `status` and `supervisor`. The other end may be frozen, or in hostile hands:
every exchange is bounded in time and size, and the socket must belong to the process that is meant.
"""

from __future__ import annotations

import asyncio
import http.client
import io
import os
import socket
import struct
import time

from l7proxy.errors import ProxyFailure
from l7proxy.untrusted import parse_json

TIMEOUT = 1.0
"""Seconds for one exchange; an Envoy that needs longer is as good as frozen."""

MAX_ANSWER = 64 * 1024
"""Bytes; what is asked for takes less than two thousand."""

_CHUNK = 65536
_CREDENTIALS = struct.Struct("3i")  # unix(7), struct ucred: pid, uid, gid


class Admin:
    """The admin socket at `path`, held by the process `pid`."""

    def __init__(self, path: str, pid: int) -> None:
        """Nothing is opened yet; each exchange has a connection of its own."""
        self._path = path
        self._pid = pid

    def get(self, target: str, method: str = "GET") -> str:
        """The body of the answer; ProxyFailure when there is none in time."""
        deadline = time.monotonic() + TIMEOUT
        raw = bytearray()
        try:
            with self._connect() as connection:
                connection.settimeout(TIMEOUT)
                connection.sendall(_request(method, target))
                while piece := connection.recv(_CHUNK):
                    _grow(raw, piece)
                    connection.settimeout(_left(deadline))
        except OSError as error:
            raise _silent(error) from error
        return _body(bytes(raw))

    async def fetch(self, target: str, method: str = "GET") -> str:
        """As `get`, without blocking the event loop."""
        try:
            async with asyncio.timeout(TIMEOUT):
                return _body(await self._exchange(_request(method, target)))
        except OSError as error:  # a timeout is one, too
            raise _silent(error) from error

    async def _exchange(self, request: bytes) -> bytes:
        loop = asyncio.get_running_loop()
        deadline = time.monotonic() + TIMEOUT
        raw = bytearray()
        with self._connect() as connection:
            await loop.sock_sendall(connection, request)
            while piece := await loop.sock_recv(connection, _CHUNK):
                _grow(raw, piece)
                # sock_recv does not wait for what is there already, and so sees no cancellation.
                _left(deadline)
        return bytes(raw)

    def _connect(self) -> socket.socket:
        """Connect without ever waiting, to a socket and not to where a link points."""
        held = os.open(self._path, os.O_PATH | os.O_NOFOLLOW)
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.setblocking(False)
            connection.connect(f"/proc/self/fd/{held}")
            peer = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
            if _CREDENTIALS.unpack(peer)[0] != self._pid:
                raise ConnectionRefusedError(0, "the admin socket is another process's")
        except BaseException:
            connection.close()
            raise
        finally:
            os.close(held)
        return connection


def numbers_and_texts(answer: str) -> dict[str, int | str]:
    """What `/stats?format=json` says, by name; ProxyFailure when it says something else."""
    try:
        listed = parse_json(answer)["stats"]
        found = {entry["name"]: entry["value"] for entry in listed if "name" in entry}
    except (ValueError, KeyError, TypeError) as error:
        raise ProxyFailure("Envoy's admin socket gave statistics of an unknown form") from error
    return {name: value for name, value in found.items() if type(value) in (int, str)}


def _request(method: str, target: str) -> bytes:
    lines = (f"{method} {target} HTTP/1.1", "Host: admin", "Connection: close", "", "")
    return "\r\n".join(lines).encode("ascii")


def _left(deadline: float) -> float:
    """Seconds until then; TimeoutError when there are none."""
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _grow(raw: bytearray, piece: bytes) -> None:
    raw += piece
    if len(raw) > MAX_ANSWER:
        raise ConnectionAbortedError(0, "the answer is too long")


def _silent(error: OSError) -> ProxyFailure:
    why = error.strerror or "no answer in time"
    return ProxyFailure(f"Envoy's admin socket: {why}")


def _body(raw: bytes) -> str:
    answer = http.client.HTTPResponse(_Received(raw))  # type: ignore[arg-type]
    try:
        answer.begin()
        body = answer.read()
    except (http.client.HTTPException, ValueError, OverflowError) as error:
        raise ProxyFailure("Envoy's admin socket gave no whole answer") from error
    # 503 is how /ready says that Envoy is not; the body tells the state.
    if answer.status not in (200, 503):
        raise ProxyFailure(f"Envoy's admin socket answered {answer.status}")
    return body.decode("utf-8", "replace")


class _Received:
    """Bytes that have come already, as `http.client` wants to read them: from a socket."""

    def __init__(self, raw: bytes) -> None:
        self._raw = raw

    def makefile(self, _mode: str) -> io.BytesIO:
        return io.BytesIO(self._raw)
