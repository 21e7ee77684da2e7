"""The compiler's output: rows as the kernel's maps want them, still as plain values.

`kernel.tables` turns them into bytes. Numbers of verdicts and reserved identities stand in
`bpf/abi.h` too, and a unit test holds the two against each other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

from pyagent.model import Direction, Network, Protocol

ANY_PEER = 0
IDENTITY_NODE = 1
IDENTITY_WORLD = 2
FIRST_IDENTITY = 256  # below: reserved numbers


class Verdict(IntEnum):
    """What policy says of a packet; the numbers are those of `bpf/abi.h`."""

    DENY = 0
    ALLOW = 1
    HANDOFF = 2
    AUDIT = 3


class PolicyKey(NamedTuple):
    """Key of one row: who, with whom, which way, by what.

    `port` is the first port of a block of 2**(16-port_bits) ports; `port_bits` 0 is every port.
    `protocol` ANY implies port_bits 0. The kernel matches the longest prefix of
    (subject, peer, direction, protocol, port).
    """

    subject: int
    peer: int  # an identity, or ANY_PEER
    direction: Direction
    protocol: Protocol
    port: int
    port_bits: int


class PolicyValue(NamedTuple):
    """Verdict of one row. Of the two rows that can match a packet (its peer's and ANY_PEER's)
    the one with the higher precedence wins; `rule` is a number of `Compiled.rules`."""

    verdict: Verdict
    precedence: int
    rule: int


@dataclass(frozen=True, slots=True)
class Compiled:
    """A whole snapshot, compiled.

    `identities` maps prefixes to the identity of an address inside (longest prefix wins; the two
    default routes are always there). `workload_identity` and `workload_tenant` are keyed
    "namespace/name". `rules` names each rule number in use ("shop/allow-web ingress[0]").
    """

    policy: Mapping[PolicyKey, PolicyValue]
    identities: Mapping[Network, int]
    workload_identity: Mapping[str, int]
    workload_tenant: Mapping[str, int]
    identity_labels: Mapping[int, str]
    rules: Mapping[int, str]
    tenants: Mapping[str, int]
