"""Ports as the policy trie sees them: blocks of a power of two, like address prefixes.

Used by `tables` to turn the `ports` of a rule into rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from pyagent.model import NamedPort, PolicyPort, Protocol

PORT_BITS = 16


class Block(NamedTuple):
    """The last part of a policy key: what `rows.PolicyKey` says of protocol and port."""

    protocol: Protocol
    port: int
    port_bits: int

    @property
    def length(self) -> int:
        """Return how many bits of protocol and port are given: 0, or 8 to 24."""
        return 0 if self.protocol is Protocol.ANY else 8 + self.port_bits

    def covers(self) -> Iterator[Block]:
        """Give every larger block around this one, the narrowest first."""
        if self.protocol is Protocol.ANY:
            return
        for bits in range(self.port_bits - 1, -1, -1):
            yield Block(self.protocol, self.port >> (PORT_BITS - bits) << (PORT_BITS - bits), bits)
        yield EVERYTHING


EVERYTHING = Block(Protocol.ANY, 0, 0)


def single(protocol: Protocol, port: int) -> Block:
    """Return the block of one port."""
    return Block(protocol, port, PORT_BITS)


def range_blocks(protocol: Protocol, first: int, last: int) -> Iterator[Block]:
    """Give the fewest blocks that together are the ports `first` to `last`, both included."""
    while first <= last:
        aligned = first & -first or 1 << PORT_BITS
        fitting = 1 << ((last - first + 1).bit_length() - 1)
        size = min(aligned, fitting)
        yield Block(protocol, first, PORT_BITS - (size.bit_length() - 1))
        first += size


def blocks_of(ports: Sequence[PolicyPort], destination: Sequence[NamedPort]) -> list[Block]:
    """Return the blocks of a rule's `ports` (NetworkPolicyPort), towards one destination.

    No ports means everything. A named port is whatever the destination calls so, for the same
    protocol if one is given; it is nothing where no port has that name.
    """
    if not ports:
        return [EVERYTHING]
    blocks: list[Block] = []
    for entry in ports:
        if entry.port is None:
            blocks.append(Block(entry.protocol, 0, 0))
        elif isinstance(entry.port, int):
            last = entry.port if entry.end_port is None else entry.end_port
            blocks.extend(range_blocks(entry.protocol, entry.port, last))
        else:
            blocks.extend(
                single(named.protocol, named.port)
                for named in destination
                if named.name == entry.port and entry.protocol in (named.protocol, Protocol.ANY)
            )
    return blocks
