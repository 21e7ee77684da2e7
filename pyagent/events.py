"""Flow events: from the kernel's ring buffer to whoever listens on the agent's unix socket.

The agent owns an `EventServer`, the only reader of the ring; commands and the demo `subscribe`.
The stream is JSON lines: events as `FlowEvent.to_json` gives them, and {"lost": N} where N events
were left out because the subscriber was slow. The first line is {"lost": 0}: every event after
it is told or counted. What the ring itself had no room for is counted in the kernel (`stats`).
"""

from __future__ import annotations

import json
import logging
import os
import selectors
import socket
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from pyagent.compiler.rows import IDENTITY_NODE, IDENTITY_WORLD
from pyagent.errors import SluiceError
from pyagent.kernel import abi
from pyagent.kernel.ringbuf import RingBuffer
from pyagent.model import Address
from pyagent.state import NodeState, events_path

_log = logging.getLogger(__name__)

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

_MOST_PENDING = 1 << 20  # bytes kept for a subscriber that does not read
_MOST_SUBSCRIBERS = 128
_REST = 0.005  # seconds between two looks at the ring, so that a flood comes in batches
_HELLO_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Names:
    """What the numbers in an event mean. `offset` is what turns CLOCK_MONOTONIC into the time
    of day, in seconds."""

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
            offset=_clock_offset(),
        )


def _clock_offset() -> float:
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
        """Plain values for JSON."""
        return {
            "address": None if self.address is None else str(self.address),
            "port": self.port,
            "identity": self.identity,
            "labels": self.labels,
            "workload": self.workload,
        }

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
        return {
            "time": self.time,
            "type": self.type,
            "verdict": self.verdict,
            "reason": self.reason,
            "direction": self.direction,
            "protocol": self.protocol,
            "source": self.source.to_json(),
            "destination": self.destination.to_json(),
            "rule": self.rule,
            "tenant": self.tenant,
            "ifindex": self.ifindex,
            "length": self.length,
            "tcp_flags": self.tcp_flags,
        }

    @staticmethod
    def from_json(raw: dict[str, Any]) -> FlowEvent:
        """The reverse of `to_json`; SluiceError when it is something else."""
        try:
            ends = {name: End.from_json(raw[name]) for name in ("source", "destination")}
            return FlowEvent(**{**raw, **ends})
        except (KeyError, TypeError, ValueError):
            raise SluiceError("the agent tells events in another version's form") from None


@dataclass(frozen=True, slots=True)
class Lost:
    """So many events were left out here."""

    count: int


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


def _line(content: dict[str, Any]) -> bytes:
    return json.dumps(content, separators=(",", ":")).encode() + b"\n"
