"""Compiled rows, evaluated in Python as the kernel does it: bit by bit, by longest prefix.

Held against the oracle by the compiler's tests, and against the kernel's own answers.
"""

from __future__ import annotations

from collections.abc import Hashable
from ipaddress import IPv4Address
from typing import TypeVar

from pyagent.compiler.rows import ANY_PEER, Compiled, PolicyKey, PolicyValue, Verdict
from pyagent.model import Address, Direction, Protocol, Snapshot
from pyagent.oracle import Answer, Packet

Value = TypeVar("Value", bound=Hashable)

ADDRESS_BITS = 128
POLICY_BITS = 96  # subject 32, peer 32, direction 8, protocol 8, port 16
PREFIX_PEER = 72
PREFIX_PROTOCOL = 80
MAPPED = 0xFFFF << 32  # ::ffff:0:0/96


class Trie(dict[tuple[int, int], Value]):
    """An LPM trie: (prefix length, leading bits) -> value."""

    def __init__(self, bits: int) -> None:
        super().__init__()
        self.bits = bits
        self.lengths: list[int] = []  # that occur, longest first

    def enter(self, prefixlen: int, data: int, value: Value) -> None:
        """Add one row; `data` has all bits, those after the prefix count for nothing."""
        key = prefixlen, data >> (self.bits - prefixlen)
        assert key not in self, f"two rows with one prefix of {prefixlen} bits"
        self[key] = value
        if prefixlen not in self.lengths:
            self.lengths = sorted([*self.lengths, prefixlen], reverse=True)

    def look_up(self, data: int) -> Value | None:
        """Return the value of the longest prefix."""
        for prefixlen in self.lengths:
            value = self.get((prefixlen, data >> (self.bits - prefixlen)))
            if value is not None:
                return value
        return None


class Rows:
    """The maps that a compiled snapshot fills: `identities`, `policy`, `local_addrs`."""

    def __init__(self, compiled: Compiled, snapshot: Snapshot) -> None:
        self.identities: Trie[int] = Trie(ADDRESS_BITS)
        for network, identity in compiled.identities.items():
            prefixlen = network.prefixlen + (96 if network.version == 4 else 0)
            self.identities.enter(prefixlen, mapped(network.network_address), identity)
        self.policy: Trie[PolicyValue] = Trie(POLICY_BITS)
        for key, value in compiled.policy.items():
            self.policy.enter(prefix_length(key), key_bits(key), value)
        self.local: dict[Address, tuple[str, int, int]] = {
            address: (key, compiled.workload_identity[key], compiled.workload_tenant[key])
            for key, workload in snapshot.workloads.items()
            for address in workload.addresses
        }
        self.tenant_names = {number: name for name, number in compiled.tenants.items()}

    def ask(self, packet: Packet) -> Answer:
        """Judge the first packet of a connection: egress of the source, ingress of the peer."""
        source = self.local.get(packet.source)
        destination = self.local.get(packet.destination)
        if source is not None and destination is not None and source[0] == destination[0]:
            return Answer(None, None, "ALLOW", None)
        egress = ingress = None
        if source is not None:
            egress = self.judge(source[1], packet.destination, Direction.EGRESS, packet).name
        if destination is not None:
            ingress = self.judge(destination[1], packet.source, Direction.INGRESS, packet).name
        if "DENY" in (egress, ingress):
            return Answer(egress, ingress, "DENY", None)
        if ingress == "HANDOFF" and destination is not None:
            return Answer(egress, ingress, "HANDOFF", self.tenant_names[destination[2]])
        if egress == "HANDOFF" and source is not None:
            return Answer(egress, ingress, "HANDOFF", self.tenant_names[source[2]])
        if "AUDIT" in (egress, ingress):
            return Answer(egress, ingress, "AUDIT", None)
        return Answer(egress, ingress, "ALLOW", None)

    def judge(self, subject: int, peer: Address, direction: Direction, packet: Packet) -> Verdict:
        """Return the verdict of one side; without a row, DENY."""
        row = self.row(subject, peer, direction, packet.protocol, packet.port)
        return Verdict.DENY if row is None else row.verdict

    def row(
        self, subject: int, peer: Address, direction: Direction, protocol: int, port: int
    ) -> PolicyValue | None:
        """Return the row that decides: the peer's, unless ANY_PEER's has the higher precedence."""
        identity = self.identities.look_up(mapped(peer))
        assert identity is not None, "the default routes must always be there"
        own = self.policy.look_up(bits(subject, identity, direction, protocol, port))
        every = self.policy.look_up(bits(subject, ANY_PEER, direction, protocol, port))
        if own is None or (every is not None and every.precedence > own.precedence):
            return every
        return own


def mapped(address: Address) -> int:
    """Return the 128 bits that the kernel uses for an address; IPv4 as ::ffff:a.b.c.d."""
    return MAPPED | int(address) if isinstance(address, IPv4Address) else int(address)


def bits(subject: int, peer: int, direction: int, protocol: int, port: int) -> int:
    """Return the 96 bits of a policy key in the order of `struct policy_key`."""
    return subject << 64 | peer << 32 | direction << 24 | protocol << 16 | port


def key_bits(key: PolicyKey) -> int:
    """Return the bits of a row's key."""
    return bits(key.subject, key.peer, key.direction, key.protocol, key.port)


def prefix_length(key: PolicyKey) -> int:
    """Return the prefix length of a row's key, as `bpf/abi.h` defines it."""
    return PREFIX_PEER if key.protocol is Protocol.ANY else PREFIX_PROTOCOL + key.port_bits
