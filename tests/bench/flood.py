"""Sends made frames as fast as one core can, and counts what arrives. Called by `policy`.

The client's core carries each frame through the whole path: veth queues nothing, so the node's
and the server's part run in the softirq that the sender's own call raises. Packets a second here
are therefore what one core can forward.
"""

from __future__ import annotations

import ctypes
import json
import os
import socket
import struct
import time
from dataclasses import dataclass
from ipaddress import IPv4Address

from pyagent.kernel.namespaces import entered
from tests.bench.places import Place

FRAME = 64  # bytes, of which 4 are what Ethernet's checksum would take
_SOL_PACKET, _PACKET_QDISC_BYPASS = 263, 20
_ETH_P_ALL = 0
_NETLINK_NETFILTER = 12
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Stream:
    """UDP from a client to a server: one frame from each source port, in turn."""

    first_port: int
    ports: int
    destination: int


def _mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


def _checksum(data: bytes) -> int:
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    total = (total & 0xFFFF) + (total >> 16)
    return ~(total + (total >> 16)) & 0xFFFF


def frame(
    macs: tuple[str, str], ends: tuple[IPv4Address, IPv4Address], sport: int, dport: int
) -> bytes:
    """One Ethernet frame with an empty-handed UDP datagram; `macs` and `ends`: from, to."""
    length = FRAME - 4 - 14
    head = [0x45, 0, length, 0, 0, 64, 17]
    ip = struct.pack(">BBHHHBBH4s4s", *head, 0, ends[0].packed, ends[1].packed)
    ip = ip[:10] + struct.pack(">H", _checksum(ip)) + ip[12:]
    udp = struct.pack(">HHHH", sport, dport, length - 20, 0)
    made = _mac(macs[1]) + _mac(macs[0]) + b"\x08\x00" + ip + udp
    return made.ljust(FRAME - 4, b"\0")


class Batch:
    """Frames and the headers by which sendmmsg(2) takes them."""

    def __init__(self, frames: list[bytes]) -> None:
        self.count = len(frames)
        self._data = ctypes.create_string_buffer(b"".join(frames))
        base, size = ctypes.addressof(self._data), len(frames[0])
        vectors = b"".join(struct.pack("=QQ", base + at * size, size) for at in range(self.count))
        self._vectors = ctypes.create_string_buffer(vectors)
        first = ctypes.addressof(self._vectors)
        # struct mmsghdr: name, namelen, iov, iovlen, control, controllen, flags, msg_len
        headers = b"".join(
            struct.pack("=QIxxxxQQQQixxxxIxxxx", 0, 0, first + 16 * at, 1, 0, 0, 0, 0)
            for at in range(self.count)
        )
        self._headers = ctypes.create_string_buffer(headers)

    def send(self, descriptor: int, most: int = 64) -> None:
        """All of them, in order."""
        sent = 0
        base = ctypes.addressof(self._headers)
        while sent < self.count:
            left = min(most, self.count - sent)
            done = _libc.sendmmsg(descriptor, ctypes.c_void_p(base + 64 * sent), left, 0)
            if done < 0:
                code = ctypes.get_errno()
                raise OSError(code, os.strerror(code))
            sent += done


def packet_socket(namespace: str) -> socket.socket:
    """A socket that puts whole frames onto eth0 of a namespace."""
    with entered(namespace):
        made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, _ETH_P_ALL)
        made.setsockopt(_SOL_PACKET, _PACKET_QDISC_BYPASS, 1)
        made.bind(("eth0", 0))
    return made


def flush_conntrack(namespace: str) -> None:
    """Empties nf_conntrack of a namespace: IPCTNL_MSG_CT_DELETE without a tuple."""
    with entered(namespace):
        netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER)
    with netlink:
        kind, flags = (1 << 8) | 2, 1 | 4  # NFNL_SUBSYS_CTNETLINK, request with answer
        netlink.send(struct.pack("=IHHIIBBH", 20, kind, flags, 1, 0, socket.AF_UNSPEC, 0, 0))
        answer = netlink.recv(4096)
        assert struct.unpack_from("=i", answer, 16)[0] == 0, "nf_conntrack was not emptied"


class Flood:
    """Sender and counter of one place."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self._out = packet_socket(place.client.path)
        self._back = packet_socket(place.server.path)
        done = place.server.run("nft", _SINK)
        assert done.returncode == 0, done.stderr

    def batch(self, stream: Stream, total: int) -> Batch:
        """`total` frames of a stream."""
        place = self.place
        macs = (place.client_wired.mac, place.client_wired.node_mac)
        ends = (place.client_address, place.server_address)
        ports = range(stream.first_port, stream.first_port + stream.ports)
        frames = [frame(macs, ends, port, stream.destination) for port in ports]
        return Batch((frames * (total // len(frames) + 1))[:total])

    def establish(self, stream: Stream) -> None:
        """One packet each way of every flow."""
        place = self.place
        self.batch(stream, stream.ports).send(self._out.fileno())
        macs = (place.server_wired.mac, place.server_wired.node_mac)
        ends = (place.server_address, place.client_address)
        ports = range(stream.first_port, stream.first_port + stream.ports)
        Batch([frame(macs, ends, stream.destination, port) for port in ports]).send(
            self._back.fileno()
        )

    def arrived(self) -> int:
        """How many datagrams the server's interface has taken in so far."""
        listed = json.loads(self.place.server.run("nft", "-j", "list", "table", "netdev", "t").stdout)
        for entry in listed["nftables"]:
            for part in entry.get("rule", {}).get("expr", []):
                if "counter" in part:
                    return int(part["counter"]["packets"])
        raise LookupError("no counter")

    def run(self, batch: Batch) -> tuple[float, int]:
        """Sends a batch; seconds, and how many of it arrived."""
        before = self.arrived()
        begun = time.thread_time()
        batch.send(self._out.fileno())
        elapsed = time.thread_time() - begun
        return elapsed, self.arrived() - before

    def close(self) -> None:
        """Closes the sockets."""
        self._out.close()
        self._back.close()


# Takes all UDP from the wire, so that the server's sockets cost nothing.
_SINK = """table netdev t {
  chain c {
    type filter hook ingress device eth0 priority 0
    meta l4proto udp counter drop
  }
}"""
