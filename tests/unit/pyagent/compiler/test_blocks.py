from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyagent.compiler.blocks import BlockIndex, block_text
from pyagent.model import Address, IPBlock
from tests.strategies import NODE, OUTSIDE, ip_blocks


def block(cidr: str, *excepts: str) -> IPBlock:
    return IPBlock(ip_network(cidr), tuple(map(ip_network, excepts)))


TEN = block("10.0.0.0/8", "10.1.0.0/16")
NARROW = block("10.1.2.0/24")
SIX = block("fd00::/8", "fd00:1::/32")
INDEX = BlockIndex([TEN, NARROW, SIX, TEN])


@pytest.mark.parametrize(
    ("address", "inside"),
    [
        ("10.0.0.1", {TEN}),
        ("10.1.0.1", set()),
        ("10.1.2.255", {NARROW}),
        ("10.1.3.0", set()),
        ("11.0.0.0", set()),
        ("9.255.255.255", set()),
        ("fd00::1", {SIX}),
        ("fd00:1::1", set()),
        ("::1", set()),
    ],
)
def test_blocks_of_an_address(address: str, inside: set[IPBlock]) -> None:
    assert INDEX.at(ip_address(address)) == {block_text(found) for found in inside}


def test_every_cidr_and_except_is_a_region_and_so_are_the_default_routes() -> None:
    assert {str(prefix): set(inside) for prefix, inside in INDEX.regions.items()} == {
        "0.0.0.0/0": set(),
        "::/0": set(),
        "10.0.0.0/8": {"10.0.0.0/8 except 10.1.0.0/16"},
        "10.1.0.0/16": set(),
        "10.1.2.0/24": {"10.1.2.0/24"},
        "fd00::/8": {"fd00::/8 except fd00:1::/32"},
        "fd00:1::/32": set(),
    }


def test_a_block_inside_another_ones_except_counts() -> None:
    index = BlockIndex([block("0.0.0.0/0", "10.0.0.0/8"), block("10.0.0.0/8", "10.9.0.0/16")])
    assert index.at(ip_address("10.9.0.1")) == frozenset()
    assert index.at(ip_address("10.8.0.1")) == {"10.0.0.0/8 except 10.9.0.0/16"}
    assert index.at(ip_address("8.8.8.8")) == {"0.0.0.0/0 except 10.0.0.0/8"}


def test_a_block_of_which_nothing_is_left() -> None:
    index = BlockIndex([block("10.0.0.0/8", "10.0.0.0/8"), block("10.1.0.0/16", "10.0.0.0/8")])
    assert index.at(ip_address("10.1.0.1")) == frozenset()


def test_the_text_does_not_depend_on_the_order_of_excepts() -> None:
    one = block("10.0.0.0/8", "10.2.0.0/16", "10.1.0.0/16", "10.1.0.0/16")
    assert block_text(one) == "10.0.0.0/8 except 10.1.0.0/16, 10.2.0.0/16"
    assert block_text(block("10.0.0.0/8")) == "10.0.0.0/8"


@given(st.lists(ip_blocks(), max_size=6), st.sampled_from([*NODE, *OUTSIDE]))
def test_an_address_is_in_the_blocks_that_contain_it(
    blocks: list[IPBlock], address: Address
) -> None:
    inside = {
        block_text(found)
        for found in blocks
        if address in found.cidr and not any(address in network for network in found.excepts)
    }
    assert BlockIndex(blocks).at(address) == inside
