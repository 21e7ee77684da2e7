"""One flow event: from the kernel's `struct event` to words, and to JSON and back.

Pure but for the clock. Called by `events`, which reads the kernel's ring and serves the stream;
commands and the demo get these values from there.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any

from pyagent.compiler.rows import IDENTITY_NODE, IDENTITY_WORLD
from pyagent.errors import SluiceError
from pyagent.kernel import abi
from pyagent.model import Address
from pyagent.state import NodeState

_ABI = abi.load()
_EVENT = _ABI.layouts["event"]
_TYPES, _VERDICTS, _REASONS = (
    {choice.number: choice.name.lower() for choice in _ABI.lists[macro]}
    for macro in ("EVENT_TYPES", "VERDICTS", "DROP_REASONS")
)
_EGRESS = _ABI.constants["DIRECTION_EGRESS"]
_DIRECTIONS = {_ABI.constants["DIRECTION_INGRESS"]: "ingress", _EGRESS: "egress"}
_PROTOCOLS = {0: "", 1: "ICMP", 6: "TCP", 17: "UDP", 58: "ICMPv6", 132: "SCTP"}
_RESERVED = {IDENTITY_NODE: "node", IDENTITY_WORLD: "world"}
_TCP_FLAGS = ("FIN", "SYN", "RST", "PSH", "ACK", "URG", "ECE", "CWR")  # RFC 9293, from bit 0


@dataclass(frozen=True, slots=True)
class Names:
    """What the numbers in an event mean; `offset` is a `clock_offset`."""

    rules: Mapping[int, str] = field(default_factory=dict)
    identities: Mapping[int, str] = field(default_factory=dict)
    tenants: Mapping[int, str] = field(default_factory=dict)
    by_address: Mapping[str, str] = field(default_factory=dict)
    by_ifindex: Mapping[int, str] = field(default_factory=dict)
    offset: float = 0.0

    @staticmethod
    def of(state: NodeState) -> Names:
        """The names of the state in force, and the clock as it is now."""
        workloads = state.workloads
        return Names(
            rules=state.rules,
            identities={**_RESERVED, **state.identities},
            tenants=state.tenants,
            by_address={a: each.key for each in workloads for a in each.addresses},
            by_ifindex={each.ifindex: each.key for each in workloads},
            offset=clock_offset(),
        )


def clock_offset() -> float:
    """Seconds between CLOCK_MONOTONIC, which the kernel's events carry, and the time of day."""
    return time.time() - time.monotonic()


@dataclass(frozen=True, slots=True)
class End:
    """One end of a flow. `address` is None when the packet was not parsed that far, `identity` 0
    when policy was not asked, `labels` "" and `workload` None when unknown."""

    address: Address | None
    port: int  # ICMP echo: the identifier
    identity: int
    labels: str
    workload: str | None  # "namespace/name"

    def to_json(self) -> dict[str, Any]:
        """Plain values for JSON, under the fields' names."""
        plain = {name: getattr(self, name) for name in self.__slots__}
        return {**plain, "address": None if self.address is None else str(self.address)}

    @staticmethod
    def from_json(raw: dict[str, Any]) -> End:
        """The reverse of `to_json`."""
        given = raw["address"]
        return End(**{**raw, "address": None if given is None else ip_address(given)})


@dataclass(frozen=True, slots=True)
class FlowEvent:
    """One event of `struct event`, in words. `time` is in seconds since the epoch, `length` in
    bytes with the link layer; `reason` is "none" for a packet that lives; `rule` and `tenant` are
    None when there is none, a number in text when its name is not known any more."""

    time: float
    type: str
    verdict: str
    reason: str
    direction: str
    protocol: str  # "" when the packet was not parsed that far
    source: End
    destination: End
    rule: str | None
    tenant: str | None
    ifindex: int
    length: int
    tcp_flags: str  # "SYN,ACK"

    def to_json(self) -> dict[str, Any]:
        """Plain values for JSON, under the fields' names."""
        plain = {name: getattr(self, name) for name in self.__slots__}
        ends = {"source": self.source.to_json(), "destination": self.destination.to_json()}
        return {**plain, **ends}

    @staticmethod
    def from_json(raw: dict[str, Any]) -> FlowEvent:
        """The reverse of `to_json`; SluiceError when it is something else."""
        try:
            ends = {name: End.from_json(raw[name]) for name in ("source", "destination")}
            return FlowEvent(**{**raw, **ends})
        except (KeyError, TypeError, ValueError):
            raise SluiceError("the agent tells events in another version's form") from None


def decode(raw: bytes, names: Names) -> FlowEvent:
    """One record of the ring, in words."""
    record: dict[str, Any] = _EVENT.unpack(raw)
    source, destination = record["source"], record["destination"]
    parsed = int(source) != 0 or int(destination) != 0
    sender = names.by_address.get(str(source))
    if record["direction"] == _EGRESS:  # the interface knows better than the address claims
        sender = names.by_ifindex.get(record["ifindex"], sender)
    ends = [
        End(
            address if parsed else None,
            record[f"{side}_port"],
            record[f"{side}_identity"],
            names.identities.get(record[f"{side}_identity"], ""),
            workload,
        )
        for side, address, workload in (
            ("source", source, sender),
            ("destination", destination, names.by_address.get(str(destination))),
        )
    ]
    flags, protocol = record["tcp_flags"], record["protocol"]
    return FlowEvent(
        time=round(record["time"] / 1e9 + names.offset, 6),
        type=_word(_TYPES, record["type"]),
        verdict=_word(_VERDICTS, record["verdict"]),
        reason=_word(_REASONS, record["reason"]),
        direction=_word(_DIRECTIONS, record["direction"]),
        protocol=_word(_PROTOCOLS, protocol),
        source=ends[0],
        destination=ends[1],
        rule=_word(names.rules, record["rule"]) if record["rule"] else None,
        tenant=_word(names.tenants, record["tenant"]) if record["tenant"] else None,
        ifindex=record["ifindex"],
        length=record["length"],
        tcp_flags=",".join(name for bit, name in enumerate(_TCP_FLAGS) if flags >> bit & 1),
    )


def _word(words: Mapping[int, str], number: int) -> str:
    return words.get(number, str(number))
