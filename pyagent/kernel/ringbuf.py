"""Reading a BPF ring buffer map: mmap and epoll, nothing else.

Called by `events`, which owns the one consumer of an agent's `events` map. The layout is that of
Documentation/bpf/ringbuf.rst and kernel/bpf/ringbuf.c: a page with the consumer's position, a
page with the producers' position, then the data pages, mapped twice in a row so that a record
that wraps around is contiguous. Positions count bytes for ever; a record is an 8-byte header
(length and two flag bits) and its data, rounded up to 8 bytes.

Producers are other CPUs. The kernel stores a record's header, marked busy, before it moves the
producers' position, and its data before it clears the busy bit; it must not reuse a record before
its data has been copied. So each of those steps has a fence between what is read before and
after it. Each position and header is read and written through a memoryview of its own size, which
is a single load or store of an aligned word.
"""

from __future__ import annotations

import mmap
import os
import select
import threading

from pyagent.errors import KernelError
from pyagent.kernel import bpf

_TYPE_RINGBUF = 27  # BPF_MAP_TYPE_RINGBUF
_BUSY = 1 << 31  # BPF_RINGBUF_BUSY_BIT: still being written
_DISCARD = 1 << 30  # BPF_RINGBUF_DISCARD_BIT: given up by the program
_LENGTH = _DISCARD - 1
_HEADER = 8  # BPF_RINGBUF_HDR_SZ
_PAGE = mmap.PAGESIZE
_POLL_RECORDS = 4096  # a call; more would keep a reader away from its other work


def scan(
    records: memoryview, position: int, produced: int, most: int = _POLL_RECORDS
) -> tuple[list[tuple[int, int]], int]:
    """Offset and length of the complete records from `position` on, and the position after them.

    `records` is the data pages, mapped twice, as 32-bit words. Ends before a record that is still
    being written, at the producers' position, or once `most` records are found.
    """
    spans: list[tuple[int, int]] = []
    mask = records.nbytes // 2 - 1
    while position < produced and len(spans) < most:
        at = position & mask
        header = records[at >> 2]
        if header & _BUSY:
            break
        length = header & _LENGTH
        if not header & _DISCARD:
            spans.append((at + _HEADER, length))
        position += (_HEADER + length + 7) & -8
    return spans, position


class RingBuffer:
    """The single consumer of the ring buffer map behind `fd`, which it takes over.

    The position it has read to is kept in the map, so a new consumer goes on where a killed one
    stopped. Not for use by several threads at once. KernelError if `fd` is no ring buffer.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._epoll = select.epoll()
        try:
            info = bpf.map_info(fd)
            if info.type != _TYPE_RINGBUF:
                raise KernelError(f"map {info.id} is not a ring buffer")
            self._size = info.max_entries  # bytes, a power of two
            self._consumer = mmap.mmap(fd, _PAGE, offset=0)
            self._producer = mmap.mmap(
                fd, _PAGE + 2 * self._size, prot=mmap.PROT_READ, offset=_PAGE
            )
            self._epoll.register(fd, select.EPOLLIN)
        except OSError as error:
            self._close_descriptors()
            raise KernelError(f"the ring buffer cannot be read: {error.strerror}") from None
        except KernelError:
            self._close_descriptors()
            raise
        self._consumed = memoryview(self._consumer).cast("Q")
        self._produced = memoryview(self._producer).cast("Q")
        self._records = memoryview(self._producer)[_PAGE:].cast("I")
        self._fence_lock = threading.Lock()
        self._fence_lock.acquire()

    def fileno(self) -> int:
        """A descriptor that polls readable (level-triggered) while there are records."""
        return self._fd

    def poll(self, timeout: float) -> list[bytes]:
        """The records that are ready, in order, at most 4096 a call.

        Waits up to `timeout` seconds for one; an empty list says that none came, or that what
        came was discarded.
        """
        records = self._read()
        if records or timeout <= 0:
            return records
        self._epoll.poll(timeout)
        return self._read()

    def _read(self) -> list[bytes]:
        start = self._consumed[0]
        produced = self._produced[0]
        if start == produced:
            return []
        self._fence()
        spans, position = scan(self._records, start, produced)
        self._fence()
        pages = self._producer
        records = [pages[_PAGE + at : _PAGE + at + length] for at, length in spans]
        self._fence()
        self._consumed[0] = position
        # Only a fence here makes sure that either the next look at the producers' position sees a
        # new record, or its producer sees that everything before it was read and wakes epoll.
        self._fence()
        return records

    def _fence(self) -> None:
        """A full memory barrier: releasing a lock orders what is before, taking it what follows."""
        self._fence_lock.release()
        self._fence_lock.acquire()

    def _close_descriptors(self) -> None:
        self._epoll.close()
        os.close(self._fd)

    def close(self) -> None:
        """Unmaps the ring and closes its descriptors; unread records stay. Again is the same."""
        if self._epoll.closed:
            return
        for view in (self._consumed, self._produced, self._records):
            view.release()
        self._consumer.close()
        self._producer.close()
        self._close_descriptors()
