"""The ring buffer's layout, on rings written here; the kernel's own are in tests/prog."""

from __future__ import annotations

import os
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyagent.errors import KernelError
from pyagent.kernel.ringbuf import RingBuffer, scan

BUSY, DISCARD = 1 << 31, 1 << 30
SIZE = 4096

PLAIN = (0, DISCARD)
Entry = tuple[int, bytes]  # flags, data


def written(position: int, entries: list[Entry]) -> tuple[memoryview, int]:
    """The data pages of a ring, twice, and the producers' position after the entries."""
    ring = bytearray(SIZE)
    for flags, data in entries:
        record = struct.pack("=II", len(data) | flags, 0) + data + bytes(-len(data) % 8)
        for byte in record:
            ring[position % SIZE] = byte
            position += 1
    return memoryview(bytes(ring) * 2).cast("I"), position


def read(ring: memoryview, position: int, produced: int, most: int) -> tuple[list[bytes], int]:
    spans, after = scan(ring, position, produced, most)
    raw = ring.cast("B")
    return [bytes(raw[at : at + length]) for at, length in spans], after


entries = st.lists(
    st.tuples(st.sampled_from((*PLAIN, BUSY, BUSY | DISCARD)), st.binary(max_size=200)),
    max_size=SIZE // 208,
)
positions = st.integers(0, 2**40).map(lambda number: number * 8)


@given(positions, entries)
def test_complete_records_are_found_in_order_wherever_they_wrap(
    start: int, given_entries: list[Entry]
) -> None:
    ring, produced = written(start, given_entries)
    complete = []
    for flags, data in given_entries:
        if flags & BUSY:
            break
        complete.append((flags, data))
    found, after = read(ring, start, produced, most=1000)
    assert found == [data for flags, data in complete if not flags & DISCARD]
    assert after == written(start, complete)[1]


@given(positions, entries, st.integers(1, 5))
def test_reading_in_parts_gives_what_reading_at_once_gives(
    start: int, given_entries: list[Entry], most: int
) -> None:
    ring, produced = written(start, [(flags & DISCARD, data) for flags, data in given_entries])
    at_once, end = read(ring, start, produced, most=1000)
    parts: list[bytes] = []
    position = start
    while position != produced:
        found, after = read(ring, position, produced, most)
        assert after > position
        assert len(found) <= most
        parts += found
        position = after
    assert (parts, position) == (at_once, end)


def test_what_is_no_ring_buffer_is_refused_and_closed() -> None:
    fd = os.memfd_create("no-ring")
    with pytest.raises(KernelError, match="ring buffer"):
        RingBuffer(fd)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)
