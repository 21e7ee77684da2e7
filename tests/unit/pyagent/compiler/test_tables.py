from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pyagent.compiler.ports import EVERYTHING, Block, single
from pyagent.compiler.rows import PolicyValue, Verdict
from pyagent.compiler.tables import Group, best, look_up, settle
from pyagent.model import Protocol

TCP = Protocol.TCP
PORTS = (0, 79, 80, 81, 443, 8080, 65535)


def allow(rule: int, precedence: int = 100) -> PolicyValue:
    return PolicyValue(Verdict.ALLOW, precedence, rule)


def aligned(protocol: Protocol, port: int, bits: int) -> Block:
    return Block(protocol, port >> (16 - bits) << (16 - bits), bits)


BLOCKS = st.one_of(
    st.just(EVERYTHING),
    st.builds(
        aligned,
        st.sampled_from([TCP, Protocol.UDP]),
        st.sampled_from(PORTS),
        st.sampled_from([0, 8, 13, 15, 16]),
    ),
)
VALUES = st.builds(allow, st.integers(1, 4), st.sampled_from([100, 200]))


def holds(block: Block, protocol: Protocol, port: int) -> bool:
    if block.protocol is Protocol.ANY:
        return True
    size = 1 << (16 - block.port_bits)
    return block.protocol is protocol and block.port <= port < block.port + size


def test_the_higher_precedence_is_best_and_then_the_lower_rule() -> None:
    assert best(allow(1, 100), allow(2, 200)) == allow(2, 200)
    assert best(allow(2), allow(1)) == allow(1)


def test_a_row_is_at_the_best_of_what_covers_it() -> None:
    group = {EVERYTHING: allow(1, 200), single(TCP, 80): allow(2, 100)}
    assert settle(group) == {EVERYTHING: allow(1, 200)}
    group = {EVERYTHING: allow(1, 100), single(TCP, 80): allow(2, 200)}
    assert settle(group) == group


def test_a_row_that_repeats_what_is_around_it_is_left_out() -> None:
    group = {Block(TCP, 80, 15): allow(1), single(TCP, 80): allow(1), single(TCP, 82): allow(1)}
    assert settle(group) == {Block(TCP, 80, 15): allow(1), single(TCP, 82): allow(1)}


@given(st.dictionaries(BLOCKS, VALUES, min_size=1, max_size=8))
def test_longest_prefix_then_finds_the_best_of_all_that_cover(group: Group) -> None:
    settled = settle(dict(group))
    for protocol in (TCP, Protocol.UDP):
        for port in PORTS:
            covering = [value for block, value in group.items() if holds(block, protocol, port)]
            expected = None
            for value in covering:
                expected = value if expected is None else best(expected, value)
            assert look_up(settled, single(protocol, port)) == expected
    for block, value in settled.items():
        without = {other: held for other, held in settled.items() if other != block}
        assert look_up(without, block) != value
