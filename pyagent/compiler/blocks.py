"""Which ipBlocks an address is in, by longest prefix.

Every cidr and every except in use is a prefix, and prefixes either nest or are apart. So the
longest of them that contains an address decides in which blocks the address is. Used by
`identities`, which numbers those sets of blocks.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network

from pyagent.model import Address, IPBlock, Network

EVERY_ADDRESS: tuple[Network, ...] = (IPv4Network("0.0.0.0/0"), IPv6Network("::/0"))

Blocks = frozenset[str]  # texts of ipBlocks, as `block_text` gives them


def block_text(block: IPBlock) -> str:
    """Return the canonical text of an ipBlock; equal texts match the same addresses."""
    if not block.excepts:
        return str(block.cidr)
    excepts = sorted(set(block.excepts), key=lambda network: (network.version, str(network)))
    return f"{block.cidr} except {', '.join(map(str, excepts))}"


class BlockIndex:
    """The regions into which the ipBlocks in use cut the addresses.

    `regions` says for each prefix in which blocks an address is whose longest prefix it is.
    The two prefixes that hold every address are always there.
    """

    def __init__(self, in_use: Iterable[IPBlock]) -> None:
        begins: dict[Network, set[str]] = defaultdict(set)
        ends: dict[Network, set[str]] = defaultdict(set)
        for block in in_use:
            if any(_holds(network, block.cidr) for network in block.excepts):
                continue  # nothing is left of it
            text = block_text(block)
            begins[block.cidr].add(text)
            for network in block.excepts:
                ends[network].add(text)
        prefixes = {*EVERY_ADDRESS, *begins, *ends}
        self.regions: dict[Network, Blocks] = {}
        # By address family and prefix length: leading bits -> blocks; longest prefixes first.
        self._lookup: dict[int, dict[int, dict[int, Blocks]]] = {4: {}, 6: {}}
        for prefix in sorted(prefixes, key=lambda network: network.prefixlen):
            blocks = self.at(prefix.network_address) | begins[prefix]
            self._add(prefix, blocks - ends[prefix])

    def _add(self, prefix: Network, blocks: Blocks) -> None:
        """Enter one prefix; no longer one may be there yet."""
        self.regions[prefix] = blocks
        shift = prefix.max_prefixlen - prefix.prefixlen
        tables = self._lookup[prefix.version]
        if shift not in tables:
            self._lookup[prefix.version] = tables = {shift: {}, **tables}
        tables[shift][int(prefix.network_address) >> shift] = blocks

    def stirred(self, before: BlockIndex) -> list[tuple[int, int, int]]:
        """Return where the blocks around an address may be others than before: as IP version,
        bits after the prefix, and the prefix's leading bits."""
        return [
            (prefix.version, shift := prefix.max_prefixlen - prefix.prefixlen, value >> shift)
            for prefix in self.regions.keys() | before.regions.keys()
            if self.regions.get(prefix) != before.regions.get(prefix)
            for value in (int(prefix.network_address),)
        ]

    def at(self, address: Address) -> Blocks:
        """Return the blocks that contain the address."""
        value = int(address)
        for shift, table in self._lookup[address.version].items():
            blocks = table.get(value >> shift)
            if blocks is not None:
                return blocks
        return frozenset()


def _holds(outer: Network, inner: Network) -> bool:
    return (
        outer.version == inner.version
        and outer.prefixlen <= inner.prefixlen
        and inner.network_address in outer
    )
