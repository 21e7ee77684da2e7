"""A client for what curl does not speak: one TCP or UDP exchange with the demo's server, one ping.

Run by `run` inside a namespace as `python -m pyagent.demo.client WAY FROM PORT TO PORT SECONDS`.
It prints one JSON object: whether there was an answer, the client's address as the server saw it
(None for a ping), seconds, and what went wrong.
"""

from __future__ import annotations

import json
import os
import socket
import struct
import sys
import time
from collections.abc import Callable
from ipaddress import ip_address

_ECHO_REQUEST, _ECHO_REPLY = {4: 8, 6: 128}, {4: 0, 6: 129}  # RFC 792, RFC 4443
_PAYLOAD = b"sluice demo"

Ends = tuple[tuple[str, int], tuple[str, int]]  # own address and port, the server's


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET if ip_address(address).version == 4 else socket.AF_INET6


def tcp(ends: Ends, deadline: float) -> str:
    """Reads the line with which the server greets, then has something echoed."""
    own, server = ends
    with socket.socket(_family(server[0]), socket.SOCK_STREAM) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        connection.bind(own)
        connection.settimeout(_left(deadline))
        connection.connect(server)
        connection.sendall(_PAYLOAD)
        said = b""
        while not said.endswith(b"\n" + _PAYLOAD):
            connection.settimeout(_left(deadline))
            chunk = connection.recv(4096)
            if not chunk:
                raise OSError("the server closed the connection")
            said += chunk
    return said.split(b"\n")[0].decode()


def udp(ends: Ends, deadline: float) -> str:
    """Sends one datagram and takes the server's answer to it."""
    own, server = ends
    with socket.socket(_family(server[0]), socket.SOCK_DGRAM) as channel:
        channel.bind(own)
        channel.connect(server)
        channel.settimeout(_left(deadline))
        channel.send(_PAYLOAD)
        address, _, echo = channel.recv(4096).partition(b" ")
    if echo != _PAYLOAD:
        raise OSError("the server answered with something else")
    return address.decode()


def ping(ends: Ends, deadline: float) -> None:
    """Sends one echo request, the own port as its identifier, and waits for the reply to it."""
    (own, identifier), (server, _) = ends
    version = ip_address(server).version
    protocol = socket.IPPROTO_ICMP if version == 4 else socket.IPPROTO_ICMPV6
    with socket.socket(_family(server), socket.SOCK_RAW, protocol) as channel:
        channel.bind((own, 0))
        channel.connect((server, 0))
        channel.send(_echo_request(version, identifier))
        while True:
            channel.settimeout(_left(deadline))
            packet = channel.recv(4096)
            icmp = packet[4 * (packet[0] & 15) :] if version == 4 else packet
            kind, _, _, number, _ = struct.unpack_from("!BBHHH", icmp)
            if kind == _ECHO_REPLY[version] and number == identifier:
                return


def _echo_request(version: int, identifier: int) -> bytes:
    """For IPv6 the kernel fills in the checksum."""

    def packet(checksum: int) -> bytes:
        header = struct.pack("!BBHHH", _ECHO_REQUEST[version], 0, checksum, identifier, 1)
        return header + _PAYLOAD

    return packet(_checksum(packet(0)) if version == 4 else 0)


def _checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071)."""
    data += bytes(len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


_WAYS: dict[str, Callable[[Ends, float], str | None]] = {"tcp": tcp, "udp": udp, "ping": ping}


def main() -> None:
    """Makes the attempt that the command line names."""
    way, own, own_port, server, port, seconds = sys.argv[1:]
    begun = time.monotonic()
    answered, seen, error = True, None, ""
    try:
        ends = ((own, int(own_port)), (server, int(port)))
        seen = _WAYS[way](ends, begun + float(seconds))
    except TimeoutError:
        answered, error = False, "no answer"
    except OSError as failure:
        error = os.strerror(failure.errno) if failure.errno else str(failure)
        answered = False
    taken = time.monotonic() - begun
    print(json.dumps({"answered": answered, "client": seen, "seconds": taken, "error": error}))


if __name__ == "__main__":
    main()
