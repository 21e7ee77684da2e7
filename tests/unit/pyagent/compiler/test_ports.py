from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyagent.compiler.ports import EVERYTHING, Block, blocks_of, range_blocks, single
from pyagent.model import NamedPort, PolicyPort, Protocol

TCP = Protocol.TCP


@pytest.mark.parametrize(
    ("first", "last", "blocks"),
    [
        (80, 80, [(80, 16)]),
        (80, 81, [(80, 15)]),
        (81, 82, [(81, 16), (82, 16)]),
        (8000, 8003, [(8000, 14)]),
        (0, 65535, [(0, 0)]),
        (1, 7, [(1, 16), (2, 15), (4, 14)]),
        (32768, 65535, [(32768, 1)]),
        (65534, 65535, [(65534, 15)]),
        (65535, 65535, [(65535, 16)]),
        (1000, 1010, [(1000, 13), (1008, 15), (1010, 16)]),
    ],
)
def test_a_range_becomes_prefixes(first: int, last: int, blocks: list[tuple[int, int]]) -> None:
    assert [(b.port, b.port_bits) for b in range_blocks(TCP, first, last)] == blocks


def ports_in(block: Block) -> range:
    return range(block.port, block.port + (1 << (16 - block.port_bits)))


@given(st.integers(0, 65535), st.integers(0, 65535))
def test_blocks_are_exactly_the_range_and_aligned(one: int, other: int) -> None:
    first, last = min(one, other), max(one, other)
    covered: list[int] = []
    for block in range_blocks(TCP, first, last):
        assert block.port % (1 << (16 - block.port_bits)) == 0
        covered.extend(ports_in(block))
    assert covered == list(range(first, last + 1))


@given(st.integers(0, 65535), st.integers(0, 65535))
def test_no_two_blocks_could_be_one(one: int, other: int) -> None:
    blocks = list(range_blocks(TCP, min(one, other), max(one, other)))
    for left, right in pairwise(blocks):
        siblings = left.port_bits == right.port_bits and next(left.covers()) == next(right.covers())
        assert not siblings


def test_what_covers_a_block_narrowest_first() -> None:
    covers = list(single(TCP, 81).covers())
    assert covers[0] == Block(TCP, 80, 15)
    assert covers[-2:] == [Block(TCP, 0, 0), EVERYTHING]
    assert len(covers) == 17
    assert list(EVERYTHING.covers()) == []


@given(st.integers(0, 65535), st.integers(1, 16))
def test_covers_are_those_that_hold_all_its_ports(port: int, bits: int) -> None:
    block = Block(TCP, port >> (16 - bits) << (16 - bits), bits)
    for cover in list(block.covers())[:-1]:
        assert cover.protocol is TCP
        assert set(ports_in(block)) <= set(ports_in(cover))


HTTP = NamedPort("http", 8080, TCP)
DNS = (NamedPort("dns", 53, Protocol.UDP), NamedPort("dns", 5353, TCP))


@pytest.mark.parametrize(
    ("entry", "destination", "blocks"),
    [
        (PolicyPort(TCP), (), [Block(TCP, 0, 0)]),
        (PolicyPort(Protocol.SCTP, 7), (), [single(Protocol.SCTP, 7)]),
        (PolicyPort(TCP, 80, 81), (), [Block(TCP, 80, 15)]),
        (PolicyPort(TCP, "http"), (HTTP,), [single(TCP, 8080)]),
        (PolicyPort(Protocol.UDP, "http"), (HTTP,), []),
        (PolicyPort(TCP, "http"), (), []),
        (PolicyPort(TCP, "dns"), DNS, [single(TCP, 5353)]),
        (PolicyPort(Protocol.UDP, "dns"), DNS, [single(Protocol.UDP, 53)]),
    ],
)
def test_ports_of_a_rule(
    entry: PolicyPort, destination: tuple[NamedPort, ...], blocks: list[Block]
) -> None:
    assert blocks_of((entry,), destination) == blocks


def test_no_ports_is_everything() -> None:
    assert blocks_of((), ()) == [EVERYTHING]
