"""Made frames and the way to send many of them with few calls. Called by `flood` and `verdict`."""

from __future__ import annotations

import ctypes
import os
import socket
import struct
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import NamedTuple

_FRAME = 60  # bytes: the shortest that Ethernet carries, its checksum left out
_BATCH = 64  # frames a call
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Stream:
    """UDP from a client to a server: one frame from each source port, in turn."""

    first_port: int
    ports: int
    destination: int

    @property
    def sources(self) -> range:
        """The source ports."""
        return range(self.first_port, self.first_port + self.ports)


class Ends(NamedTuple):
    """MACs and addresses of a frame's sender and receiver."""

    macs: tuple[str, str]
    addresses: tuple[IPv4Address, IPv4Address]


def _checksum(data: bytes) -> int:
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    total = (total & 0xFFFF) + (total >> 16)
    folded: int = ~(total + (total >> 16)) & 0xFFFF
    return folded


def frame(ends: Ends, source: int, destination: int) -> bytes:
    """One Ethernet frame with a UDP datagram (without a checksum: RFC 768 allows that)."""
    length = _FRAME - 14
    addresses = b"".join(address.packed for address in ends.addresses)
    ip = struct.pack(">BBHHHBBH", 0x45, 0, length, 0, 0, 64, socket.IPPROTO_UDP, 0) + addresses
    ip = ip[:10] + struct.pack(">H", _checksum(ip)) + ip[12:]
    macs = bytes.fromhex((ends.macs[1] + ends.macs[0]).replace(":", ""))
    udp = struct.pack(">HHHH", source, destination, length - 20, 0)
    return (macs + b"\x08\x00" + ip + udp).ljust(_FRAME, b"\0")


class Batch:
    """Frames and the headers by which sendmmsg(2) takes them, made beforehand."""

    def __init__(self, frames: list[bytes]) -> None:
        self.count = len(frames)
        self._frames = ctypes.create_string_buffer(b"".join(frames))
        first = ctypes.addressof(self._frames)
        vectors = (struct.pack("=QQ", first + _FRAME * at, _FRAME) for at in range(self.count))
        self._vectors = ctypes.create_string_buffer(b"".join(vectors))
        first = ctypes.addressof(self._vectors)
        # struct mmsghdr, 64 bytes; of its fields only msg_iov and msg_iovlen, at 16, are set
        headers = (struct.pack("=16xQQ32x", first + 16 * at, 1) for at in range(self.count))
        self._headers = ctypes.create_string_buffer(b"".join(headers))

    def send(self, out: socket.socket) -> None:
        """All of them, in order."""
        sent, descriptor, first = 0, out.fileno(), ctypes.addressof(self._headers)
        while sent < self.count:
            most = min(_BATCH, self.count - sent)
            done = _libc.sendmmsg(descriptor, ctypes.c_void_p(first + 64 * sent), most, 0)
            if done < 0:
                code = ctypes.get_errno()
                raise OSError(code, os.strerror(code))
            sent += done
