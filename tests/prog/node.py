"""The node of the tests of this folder: interfaces in a network namespace, programs, maps.

Made once a session by `conftest`; `harness.World` is one test's view of it.
"""

from __future__ import annotations

import ctypes
import os
import socket
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pyagent.config import MapSizes
from pyagent.errors import KernelError
from pyagent.kernel import bpf, loader, pins
from pyagent.kernel.ringbuf import RingBuffer
from pyagent.kernel.tables import Tables

SIZES = MapSizes(
    workloads=64,
    local_addrs=64,
    identities=1024,
    policy=65_536,
    conntrack=4096,
    fragments=1024,
    tenants=16,
    proxies=16,
    proxy_clients=256,
    counters=256,
    events=4_194_304,
)
CONTEXT_SIZE = 192  # struct __sk_buff; offsets below are of linux/bpf.h
_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int) -> None:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def context(ifindex: int, ingress: int = 0, gso_segs: int = 0) -> bytes:
    """What the kernel takes over from a `struct __sk_buff` (convert___skb_to_skb)."""
    raw = bytearray(CONTEXT_SIZE)
    struct.pack_into("=II", raw, 36, ingress, ifindex)
    struct.pack_into("=I", raw, 164, gso_segs)
    return bytes(raw)


@dataclass(frozen=True, slots=True)
class Interface:
    """One interface of the node, and its own MAC."""

    index: int
    mac: str


class Node:
    """The namespace, its interfaces, and the loaded programs with their maps."""

    def __init__(self, state_dir: Path, sizes: MapSizes = SIZES) -> None:
        self.state_dir = state_dir
        self._outside = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        try:
            _check(_libc.unshare(_CLONE_NEWNET))
            self._behind = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
            _check(_libc.unshare(_CLONE_NEWNET))
            self._inside = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
            names = ["w1", "w2", "w3", "w4", "p1", "p2", "out", "w5"]
            self.interfaces = {name: self._add(name, at) for at, name in enumerate(names, 1)}
            subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        finally:
            _check(_libc.setns(self._outside, _CLONE_NEWNET))
        folder = pins.mount(state_dir)
        try:
            self.programs = loader.load(folder, sizes, proxy_port=15001)
        except KernelError:
            pins.unmount(state_dir)
            raise
        self.tables = Tables(folder)
        self.events = RingBuffer(bpf.open_pin(folder / "events"))

    def _add(self, name: str, number: int) -> Interface:
        mac, end_mac = f"06:51:00:00:00:{number:02x}", f"02:51:00:00:00:{number:02x}"
        end = ["name", f"{name}-end", "address", end_mac, "netns", self.path(self._behind)]
        pair = ["ip", "link", "add", name, "address", mac, "type", "veth", "peer", *end]
        subprocess.run(pair, check=True)
        return Interface(socket.if_nametoindex(name), mac)

    @staticmethod
    def path(namespace: int) -> str:
        """A path of a namespace's descriptor, for others to open."""
        return f"/proc/{os.getpid()}/fd/{namespace}"

    @property
    def namespace(self) -> str:
        """A path of the node's namespace."""
        return self.path(self._inside)

    @contextmanager
    def inside(self) -> Iterator[None]:
        """The calling thread is in the node's namespace; what it starts is, too."""
        with self._entered(self._inside):
            yield

    @contextmanager
    def behind(self) -> Iterator[None]:
        """The same for the namespace with the other ends of all interfaces, such as w1-end."""
        with self._entered(self._behind):
            yield

    @contextmanager
    def _entered(self, namespace: int) -> Iterator[None]:
        _check(_libc.setns(namespace, _CLONE_NEWNET))
        try:
            yield
        finally:
            _check(_libc.setns(self._outside, _CLONE_NEWNET))

    def run(self, hook: str, packet: bytes, ctx: bytes, repeat: int = 1) -> bpf.RunResult:
        """One program on one packet; to be called inside."""
        return bpf.run(self.programs.fds[hook], packet, ctx, repeat)

    def close(self) -> None:
        """Takes everything away."""
        self.events.close()
        self.tables.close()
        self.programs.close()
        pins.unmount(self.state_dir)
        for namespace in (self._inside, self._behind, self._outside):
            os.close(namespace)
