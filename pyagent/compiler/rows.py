"""The compiler's output: rows as the kernel's maps want them, still as plain values.

Large tables come as `Grouped`: what did not change from one compilation to the next is the same
object, so that `plan` need not look into it. `kernel.tables` turns rows into bytes. Numbers of
verdicts and reserved identities stand in `bpf/abi.h` too, and a unit test holds the two against
each other.
"""

from __future__ import annotations

from collections.abc import Hashable, ItemsView, Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple, TypeVar

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


_Key = TypeVar("_Key")
_Value = TypeVar("_Value")


class Grouped(Mapping[_Key, _Value]):
    """A mapping made of groups, which have no key in common and are never changed.

    Looking up a single key flattens it, for the sake of whoever wants just a mapping.
    """

    __slots__ = ("_flat", "groups")

    def __init__(self, groups: Mapping[Hashable, Mapping[_Key, _Value]]) -> None:
        self.groups = groups
        self._flat: dict[_Key, _Value] | None = None

    def _flattened(self) -> dict[_Key, _Value]:
        if self._flat is None:
            self._flat = {}
            for group in self.groups.values():
                self._flat.update(group)
        return self._flat

    def __getitem__(self, key: _Key) -> _Value:
        return self._flattened()[key]

    def __iter__(self) -> Iterator[_Key]:
        for group in self.groups.values():
            yield from group

    def __len__(self) -> int:
        return sum(map(len, self.groups.values()))

    def items(self) -> ItemsView[_Key, _Value]:
        """All keys and values."""
        return self._flattened().items()

    def __repr__(self) -> str:
        return f"Grouped({dict(self.groups)!r})"


@dataclass(frozen=True, slots=True)
class Compiled:
    """A whole snapshot, compiled.

    `identities` maps prefixes to the identity of an address inside (longest prefix wins; the two
    default routes are always there). `workload_identity` and `workload_tenant` are keyed
    "namespace/name". `rules` names each rule number in use ("shop/allow-web ingress[0]").
    """

    policy: Grouped[PolicyKey, PolicyValue]  # by subject
    identities: Grouped[Network, int]  # by workload, and those of no workload
    workload_identity: Mapping[str, int]
    workload_tenant: Mapping[str, int]
    identity_labels: Mapping[int, str]
    rules: Mapping[int, str]
    tenants: Mapping[str, int]
