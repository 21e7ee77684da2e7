"""What the tests send: connections, datagrams, echo requests and whole frames.

The sockets belong to the test's own process and live in the namespace they were made in, so a
test costs no process. A denial is known by the drop it was counted as, not by a time that passed.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager

from tests.netns.node import Netns, Node, wait_for

PATIENCE = 5.0  # seconds, for what should come at once
_ECHO = {4: (8, 0), 6: (128, 129)}  # ICMP and ICMPv6: request, reply


def family_of(address: str) -> socket.AddressFamily:
    """The socket family of an address's text."""
    version = ipaddress.ip_address(address).version
    return socket.AF_INET if version == 4 else socket.AF_INET6


def url_host(address: str) -> str:
    """The address as a URL's host."""
    return address if family_of(address) is socket.AF_INET else f"[{address}]"


def open_socket(
    host: Netns, to: str, kind: socket.SocketKind, source: str = "", source_port: int = 0
) -> socket.socket:
    """A socket in the host's namespace for talking to an address, with a bound on each wait."""
    made = host.socket(family_of(to), kind)
    made.settimeout(PATIENCE)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if source or source_port:
        made.bind((source or ("::" if ":" in to else "0.0.0.0"), source_port))
    return made


def connect(
    host: Netns, to: str, port: int, source: str = "", source_port: int = 0
) -> socket.socket:
    """An established TCP connection."""
    made = open_socket(host, to, socket.SOCK_STREAM, source, source_port)
    try:
        made.connect((to, port))
    except OSError:
        made.close()
        raise
    return made


def listen(host: Netns, address: str, port: int) -> socket.socket:
    """A listening TCP socket of the test's own."""
    made = open_socket(host, address, socket.SOCK_STREAM, address, port)
    made.listen(1024)
    return made


def receive(connection: socket.socket, size: int) -> bytes:
    """Exactly `size` bytes, or fewer when the other end is done."""
    data = bytearray()
    while len(data) < size and (part := connection.recv(size - len(data))):
        data += part
    return bytes(data)


def greet(connection: socket.socket) -> str:
    """What the demo's echo server says first: the client's address, as it sees it."""
    line = bytearray()
    while not line.endswith(b"\n"):
        part = connection.recv(1)
        assert part, f"the connection ended after {bytes(line)!r}"
        line += part
    return line.decode().rstrip("\n")


def echo(connection: socket.socket, data: bytes = b"hello") -> bool:
    """Whether the demo's echo server gives the very bytes back."""
    connection.sendall(data)
    return receive(connection, len(data)) == data


def tcp(host: Netns, to: str, port: int, source: str = "") -> str:
    """One exchange with the demo's echo server; the client's address, as the server saw it."""
    with connect(host, to, port, source) as connection:
        seen = greet(connection)
        assert echo(connection)
        return seen


def udp(host: Netns, to: str, port: int, source: str = "", size: int = 5) -> str:
    """One datagram to the demo's server and back; the client's address, as the server saw it."""
    with open_socket(host, to, socket.SOCK_DGRAM, source) as datagrams:
        data = os.urandom(size)
        datagrams.sendto(data, (to, port))
        seen, _, back = datagrams.recv(65536).partition(b" ")
        assert back == data
        return seen.decode()


def _checksum(data: bytes) -> int:
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def echo_request(version: int, identifier: int, payload: bytes) -> bytes:
    """An ICMP echo request; the kernel fills in ICMPv6's checksum."""
    kind, _ = _ECHO[version]
    header = struct.pack("!BBHHH", kind, 0, 0, identifier, 1)
    if version == 4:
        header = struct.pack("!BBHHH", kind, 0, _checksum(header + payload), identifier, 1)
    return header + payload


def ping(host: Netns, to: str, source: str = "", size: int = 56) -> str:
    """An echo request and its reply, whose sender is returned."""
    version = ipaddress.ip_address(to).version
    protocol = socket.IPPROTO_ICMP if version == 4 else socket.IPPROTO_ICMPV6
    identifier, payload = int.from_bytes(os.urandom(2)), os.urandom(size)
    with host.socket(family_of(to), socket.SOCK_RAW, protocol) as raw:
        raw.settimeout(PATIENCE)
        if source:
            raw.bind((source, 0))
        raw.sendto(echo_request(version, identifier, payload), (to, 0))
        while True:
            packet, (sender, *_) = raw.recvfrom(65536)
            message = packet[(packet[0] & 15) * 4 :] if version == 4 else packet
            kind, _, _, its_identifier, _ = struct.unpack("!BBHHH", message[:8])
            if kind == _ECHO[version][1] and its_identifier == identifier:
                assert message[8:] == payload
                return str(sender)


@contextmanager
def dropped(node: Node, reason: str) -> Iterator[None]:
    """Fails unless what is done inside makes the node drop a packet for this reason."""
    before = node.drops()
    yield

    def one_more() -> bool:
        return node.drops().get(reason, 0) > before.get(reason, 0)

    try:
        wait_for(one_more, reason, PATIENCE)
    except AssertionError:
        raise AssertionError(f"no drop for {reason}: {before} became {node.drops()}") from None


def tcp_dropped(node: Node, reason: str, host: Netns, to: str, port: int, source: str = "") -> None:
    """Fails unless the SYN is dropped for this reason, and the connection stays without answer."""
    with open_socket(host, to, socket.SOCK_STREAM, source) as connection:
        connection.setblocking(False)
        with dropped(node, reason):
            connection.connect_ex((to, port))
        error = connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        assert error == 0, os.strerror(error)
        assert not is_connected(connection)


def is_connected(connection: socket.socket) -> bool:
    """Whether the handshake is done."""
    try:
        connection.getpeername()
    except OSError:
        return False
    return True


def udp_dropped(node: Node, reason: str, host: Netns, to: str, port: int, source: str = "") -> None:
    """Fails unless the datagram is dropped for this reason."""
    with (
        open_socket(host, to, socket.SOCK_DGRAM, source) as datagrams,
        dropped(node, reason),
    ):
        datagrams.sendto(b"hello", (to, port))


def ping_dropped(node: Node, reason: str, host: Netns, to: str) -> None:
    """Fails unless the echo request is dropped for this reason."""
    version = ipaddress.ip_address(to).version
    protocol = socket.IPPROTO_ICMP if version == 4 else socket.IPPROTO_ICMPV6
    with (
        host.socket(family_of(to), socket.SOCK_RAW, protocol) as raw,
        dropped(node, reason),
    ):
        raw.sendto(echo_request(version, 1, b"hello"), (to, 0))


class Frames:
    """A packet socket on an interface of a namespace: sends frames as they are, sees all."""

    def __init__(self, host: Netns, interface: str = "eth0") -> None:
        self.socket = host.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.ntohs(0x0003))
        self.socket.bind((interface, 0))
        self.socket.settimeout(PATIENCE)
        self.mac = self.socket.getsockname()[4]

    def __enter__(self) -> Frames:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, frame: object) -> None:
        """Sends one frame, a scapy packet or bytes."""
        self.socket.send(bytes(frame))  # type: ignore[call-overload]

    def seen(self) -> list[bytes]:
        """Every frame that has come in (and none that went out) since the last call."""
        found = []
        self.socket.setblocking(False)
        try:
            while True:
                frame, (_, _, direction, *_) = self.socket.recvfrom(65536)
                if direction != socket.PACKET_OUTGOING:
                    found.append(frame)
        except BlockingIOError:
            return found
