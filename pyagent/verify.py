"""What to ask the kernel to know that it enforces the manifests, and when its answer is the right
one. Pure: `sluice policy verify` does the asking, and the tests hold the kernel against the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address

from pyagent.model import (
    Address,
    Direction,
    Network,
    PolicyPort,
    PolicyRule,
    Protocol,
    Snapshot,
)
from pyagent.oracle import Answer, Packet

_PROTOCOLS = (Protocol.TCP, Protocol.UDP, Protocol.SCTP)
_ECHO = {4: 1, 6: 58}  # ICMP, ICMPv6: what has no ports
_LAST_PORT = 65535
# Of documentation (RFC 5737, RFC 3849) and benchmarking (RFC 2544, RFC 5180): nobody's.
_STRANGERS: tuple[Address, ...] = tuple(
    ip_address(text)
    for text in (
        *("203.0.113.77", "198.51.100.77", "192.0.2.77", "198.18.7.77"),
        *("2001:db8:ffff::77", "2001:2:0:ffff::77"),
    )
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What becomes of a packet. `side` is the direction whose policy denied it, `tenant` whose
    proxy gets it."""

    verdict: str  # "allow", "deny", "handoff", or what else the kernel did
    side: Direction | None = None
    tenant: str | None = None

    def __str__(self) -> str:
        if self.side is not None:
            return f"{self.verdict} {self.side.name.lower()}"
        return f"{self.verdict} to {self.tenant}" if self.tenant else self.verdict


def expected(answer: Answer, failed_open: frozenset[str] = frozenset()) -> Outcome:
    """What the kernel has to do by the oracle's answer; of two sides that deny, egress is first.

    `failed_open`: tenants whose proxy does not serve and whose failure mode is open.
    """
    if answer.verdict == "DENY":
        return Outcome("deny", Direction.EGRESS if answer.egress == "DENY" else Direction.INGRESS)
    if answer.verdict == "HANDOFF" and answer.tenant not in failed_open:
        return Outcome("handoff", tenant=answer.tenant)
    return Outcome("audit" if answer.verdict == "AUDIT" else "allow")


def seen(verdict: str, reason: str, tenant: str | None) -> Outcome:
    """What the kernel does, in the same terms; `verdict` and `reason` by their names.

    Policy's verdict is meant: a proxy that is not ready is no difference.
    """
    if verdict == "deny" and reason in ("policy_egress", "policy_ingress"):
        return Outcome("deny", Direction[reason.removeprefix("policy_").upper()])
    if verdict == "handoff" and reason in ("none", "proxy_not_ready"):
        return Outcome("handoff", tenant=tenant)
    return Outcome(verdict if reason == "none" else f"drop {reason}")


@dataclass(frozen=True, slots=True)
class Questions:
    """Packets to ask about: each pair of ends with each service of (protocol, port)."""

    ends: tuple[tuple[Address, Address], ...]
    services: tuple[tuple[int, int], ...]

    def __len__(self) -> int:
        return len(self.ends) * (len(self.services) + 1)

    def __iter__(self) -> Iterator[Packet]:
        for source, destination in self.ends:
            for protocol, port in self.services:
                yield Packet(source, destination, protocol, port)
            yield Packet(source, destination, _ECHO[source.version], 0)


def questions(snapshot: Snapshot, node_addresses: frozenset[Address]) -> Questions:
    """Every pair of which one end at least is a workload, over every port that is named anywhere.

    The other end may be the node, or an address outside: at the edges of every ipBlock, and one
    in none. Not asked: a workload about itself, whose packets never leave it.
    """
    services = [(int(protocol), port) for protocol in _PROTOCOLS for port in _ports(snapshot)]
    return Questions(tuple(_pairs(snapshot, node_addresses)), tuple(services))


def _pairs(
    snapshot: Snapshot, node_addresses: frozenset[Address]
) -> Iterator[tuple[Address, Address]]:
    own = {a: key for key, workload in snapshot.workloads.items() for a in workload.addresses}
    node = sorted((a for a in node_addresses if a not in own), key=_order)
    others = [*node, *outside_addresses(snapshot, node_addresses)]
    for source, owner in own.items():
        for destination, other in own.items():
            if owner != other and source.version == destination.version:
                yield source, destination
        for address in others:
            if source.version == address.version:
                yield source, address
                yield address, source


def outside_addresses(snapshot: Snapshot, node_addresses: frozenset[Address]) -> list[Address]:
    """Addresses that belong to nobody here: the first and last of every prefix of an ipBlock, the
    two beyond them, and one of each family that is in no block (but those of everything)."""
    taken = {a for workload in snapshot.workloads.values() for a in workload.addresses}
    taken |= node_addresses
    prefixes = set(_prefixes(snapshot))
    found = {address for prefix in prefixes for address in _edges(prefix) if address not in taken}
    narrow = [prefix for prefix in prefixes if prefix.prefixlen]
    for version in (4, 6):
        strangers = (
            address
            for address in _STRANGERS
            if address.version == version
            and address not in taken
            and not any(address in prefix for prefix in narrow)
        )
        found.update(list(strangers)[:1])
    return sorted(found, key=_order)


def _order(address: Address) -> tuple[int, int]:
    return address.version, int(address)


def _prefixes(snapshot: Snapshot) -> Iterator[Network]:
    for rule in _rules(snapshot):
        for peer in rule.peers:
            if peer.ip_block is not None:
                yield peer.ip_block.cidr
                yield from peer.ip_block.excepts


def _edges(prefix: Network) -> Iterator[Address]:
    first, last = prefix.network_address, prefix.broadcast_address
    if int(first):
        yield from _usable(first - 1)
    yield from _usable(first)
    yield from _usable(last)
    if int(last) + 1 < 1 << prefix.max_prefixlen:
        yield from _usable(last + 1)


def _usable(address: Address) -> Iterator[Address]:
    """Gives the address if a packet of a flow between two ends can bear it."""
    mapped = isinstance(address, IPv6Address) and address.ipv4_mapped is not None
    everyone = address.version == 4 and int(address) == 2**32 - 1
    here = address.is_unspecified or address.is_loopback or address.is_link_local
    if not (mapped or everyone or here or address.is_multicast):
        yield address


def _rules(snapshot: Snapshot) -> Iterator[PolicyRule]:
    namespaced, cluster = snapshot.policies.values(), snapshot.cluster_policies.values()
    for rules in (
        *((policy.ingress, policy.egress) for policy in namespaced),
        *((policy.ingress, policy.egress) for policy in cluster),
    ):
        for direction in rules:
            yield from direction


def _ports(snapshot: Snapshot) -> list[int]:
    """The ports named anywhere, those just beyond ranges, and one of which nothing speaks."""
    entries = [entry for rule in _rules(snapshot) for entry in rule.ports]
    ports = {port for tenant in snapshot.tenants.values() for port in tenant.http_ports}
    ports |= {port.port for w in snapshot.workloads.values() for port in w.ports}
    for entry in entries:
        ports |= set(_named(entry))
    ports &= set(range(1, _LAST_PORT + 1))
    return sorted(ports | {_unnamed(ports, entries)})


def _named(entry: PolicyPort) -> Iterable[int]:
    if not isinstance(entry.port, int):
        return ()
    if entry.end_port is None:
        return (entry.port,)
    return (entry.port - 1, entry.port, entry.end_port, entry.end_port + 1)


def _unnamed(ports: set[int], entries: Iterable[PolicyPort]) -> int:
    """A port in no range, or, where ranges leave none, one that at least is not named."""
    ranges = [
        range(entry.port, entry.end_port + 1)
        for entry in entries
        if isinstance(entry.port, int) and entry.end_port is not None
    ]
    free = [port for port in range(1, _LAST_PORT + 1) if port not in ports]
    return next((p for p in free if not any(p in span for span in ranges)), free[0])
