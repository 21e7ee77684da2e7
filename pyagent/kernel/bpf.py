"""bpf(2), called directly: maps, pins and test runs for readers that have no compiler at hand.

Called by `loader`, `tables` and the kernel tests. Layouts of the syscall's argument are those of
`union bpf_attr` in linux/bpf.h; every wrapper raises OSError with the kernel's errno.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

_SYSCALL = {"x86_64": 321, "aarch64": 280, "riscv64": 280, "ppc64le": 361, "s390x": 351}

_MAP_LOOKUP, _MAP_UPDATE, _MAP_DELETE, _MAP_NEXT_KEY = 1, 2, 3, 4
_OBJ_PIN, _OBJ_GET, _PROG_TEST_RUN, _PROG_BY_ID, _INFO_BY_FD = 6, 7, 10, 13, 15
_LOOKUP_BATCH, _UPDATE_BATCH = 24, 26
_ENOTSUPP = 524  # the kernel's own, for operations that a map type lacks

_PER_CPU_TYPES = (5, 6, 10)  # percpu hash, percpu array, LRU percpu hash
_BATCH = 4096  # entries a call

_libc = ctypes.CDLL(None, use_errno=True)


def _bpf(command: int, attr: bytes) -> tuple[int, bytes]:
    """One bpf(2) call; returns its value and the argument as the kernel left it."""
    number = _SYSCALL.get(platform.machine())
    if number is None:
        raise OSError(errno.ENOSYS, f"no bpf(2) number is known for {platform.machine()}")
    buffer = ctypes.create_string_buffer(attr, max(len(attr), 128))
    result = _libc.syscall(number, command, buffer, len(buffer))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result, buffer.raw


def _address(buffer: ctypes.Array[ctypes.c_char]) -> int:
    return ctypes.addressof(buffer)


def pin(fd: int, path: Path) -> None:
    """Pins a map or a program; FileExistsError when something is pinned there already."""
    name = ctypes.create_string_buffer(os.fsencode(path))
    _bpf(_OBJ_PIN, struct.pack("=QII", _address(name), fd, 0))


def open_pin(path: Path) -> int:
    """A new file descriptor of what is pinned at `path`; the caller closes it."""
    name = ctypes.create_string_buffer(os.fsencode(path))
    return _bpf(_OBJ_GET, struct.pack("=QII", _address(name), 0, 0))[0]


def open_program(number: int) -> int:
    """A new file descriptor of the loaded program with that id; the caller closes it."""
    return _bpf(_PROG_BY_ID, struct.pack("=III", number, 0, 0))[0]


def close(fd: int) -> None:
    """Closes a descriptor; what it stands for lives on while it is pinned or in use."""
    os.close(fd)


def _info(fd: int, size: int) -> bytes:
    info = ctypes.create_string_buffer(size)
    _bpf(_INFO_BY_FD, struct.pack("=IIQ", fd, size, _address(info)))
    return info.raw


@dataclass(frozen=True, slots=True)
class MapInfo:
    """What the kernel says of a map: `struct bpf_map_info`. Sizes are in bytes."""

    type: int
    id: int
    key_size: int
    value_size: int
    max_entries: int


def map_info(fd: int) -> MapInfo:
    """Type, id, sizes and capacity of the map behind `fd`."""
    return MapInfo(*struct.unpack_from("=5I", _info(fd, 80)))


def program_map_ids(fd: int) -> frozenset[int]:
    """Ids of the maps that the program behind `fd` uses: `bpf_prog_info.map_ids`."""
    count = 64
    ids = (ctypes.c_uint32 * count)()
    info = ctypes.create_string_buffer(232)
    # nr_map_ids at 52, map_ids at 56
    struct.pack_into("=IQ", info, 52, count, ctypes.addressof(ids))
    _bpf(_INFO_BY_FD, struct.pack("=IIQ", fd, len(info), _address(info)))
    return frozenset(ids[: struct.unpack_from("=I", info, 52)[0]])


def program_id(fd: int) -> int:
    """The kernel's id of the program behind `fd`, as netlink dumps report it."""
    number: int = struct.unpack_from("=I", _info(fd, 232), 4)[0]
    return number


def _possible_cpus() -> int:
    spans = Path("/sys/devices/system/cpu/possible").read_text().strip().split(",")
    return 1 + max(int(span.split("-")[-1]) for span in spans)


class Map:
    """One open map. Keys and values are bytes of the map's own sizes.

    A per-CPU map's value is the values of all CPUs, each padded to 8 bytes; `split` parts them.
    """

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.info = map_info(fd)
        self.per_cpu = self.info.type in _PER_CPU_TYPES
        self._stride = -(-self.info.value_size // 8) * 8
        self._value_bytes = (
            self._stride * _possible_cpus() if self.per_cpu else self.info.value_size
        )

    def close(self) -> None:
        """Closes the descriptor; the map lives on as long as it is pinned or in use."""
        os.close(self.fd)

    def split(self, value: bytes) -> list[bytes]:
        """The CPUs' values inside a per-CPU value."""
        size = self.info.value_size
        return [value[at : at + size] for at in range(0, len(value), self._stride)]

    def _element(self, command: int, key: bytes, value: ctypes.Array[ctypes.c_char]) -> None:
        buffer = ctypes.create_string_buffer(key, self.info.key_size)
        _bpf(command, struct.pack("=IIQQQ", self.fd, 0, _address(buffer), _address(value), 0))

    def get(self, key: bytes) -> bytes | None:
        """The value at `key`, or None. In an LPM trie: the longest match."""
        value = ctypes.create_string_buffer(self._value_bytes)
        try:
            self._element(_MAP_LOOKUP, key, value)
        except FileNotFoundError:
            return None
        return value.raw

    def put(self, key: bytes, value: bytes) -> None:
        """Writes one entry; OSError E2BIG or ENOSPC when the map is full."""
        self._element(_MAP_UPDATE, key, ctypes.create_string_buffer(value, self._value_bytes))

    def delete(self, key: bytes) -> bool:
        """Removes one entry; False when there was none."""
        buffer = ctypes.create_string_buffer(key, self.info.key_size)
        try:
            _bpf(_MAP_DELETE, struct.pack("=IIQ", self.fd, 0, _address(buffer)))
        except FileNotFoundError:
            return False
        return True

    def put_many(self, entries: Sequence[tuple[bytes, bytes]]) -> None:
        """Writes entries in batches, one by one where the map type has no batches."""
        for start in range(0, len(entries), _BATCH):
            chunk = entries[start : start + _BATCH]
            keys = ctypes.create_string_buffer(b"".join(key for key, _ in chunk))
            values = ctypes.create_string_buffer(b"".join(value for _, value in chunk))
            try:
                _bpf(_UPDATE_BATCH, self._batch_attr(0, 0, keys, values, len(chunk)))
            except OSError as error:
                if error.errno not in (errno.EINVAL, _ENOTSUPP):
                    raise
                for key, value in chunk:
                    self.put(key, value)

    def _batch_attr(
        self,
        start: int,
        resume: int,
        keys: ctypes.Array[ctypes.c_char],
        values: ctypes.Array[ctypes.c_char],
        count: int,
    ) -> bytes:
        return struct.pack(
            "=QQQQIIQQ", start, resume, _address(keys), _address(values), count, self.fd, 0, 0
        )

    def entries(self) -> Iterator[tuple[bytes, bytes]]:
        """All entries, as far as they exist while they are read."""
        try:
            yield from self._entries_batched()
        except OSError as error:
            if error.errno not in (errno.EINVAL, _ENOTSUPP):
                raise
            yield from self._entries_single()

    def _entries_batched(self) -> Iterator[tuple[bytes, bytes]]:
        key_size, value_size = self.info.key_size, self._value_bytes
        count = min(_BATCH, max(self.info.max_entries, 1))
        cursors = [ctypes.create_string_buffer(max(key_size, 8)) for _ in range(2)]
        keys = ctypes.create_string_buffer(key_size * count)
        values = ctypes.create_string_buffer(value_size * count)
        start = 0
        done = False
        while not done:
            attr = self._batch_attr(start, _address(cursors[1]), keys, values, count)
            buffer = ctypes.create_string_buffer(attr, 128)
            number = _SYSCALL[platform.machine()]
            if _libc.syscall(number, _LOOKUP_BATCH, buffer, len(buffer)) < 0:
                code = ctypes.get_errno()
                if code == errno.ENOSPC and count < self.info.max_entries:
                    # a hash bucket with more entries than the batch has room for
                    count = min(count * 2, self.info.max_entries)
                    keys = ctypes.create_string_buffer(key_size * count)
                    values = ctypes.create_string_buffer(value_size * count)
                    continue
                if code != errno.ENOENT:
                    raise OSError(code, os.strerror(code))
                done = True
            found = struct.unpack_from("=I", buffer, 32)[0]
            raw_keys, raw_values = keys.raw, values.raw
            for i in range(found):
                yield (
                    raw_keys[i * key_size : (i + 1) * key_size],
                    raw_values[i * value_size : (i + 1) * value_size],
                )
            cursors.reverse()
            start = _address(cursors[0])

    def _entries_single(self) -> Iterator[tuple[bytes, bytes]]:
        key: ctypes.Array[ctypes.c_char] | None = None
        while True:
            following = ctypes.create_string_buffer(self.info.key_size)
            at = _address(key) if key is not None else 0
            try:
                _bpf(_MAP_NEXT_KEY, struct.pack("=IIQQ", self.fd, 0, at, _address(following)))
            except FileNotFoundError:
                return
            value = self.get(following.raw)
            if value is not None:
                yield following.raw, value
            key = following


@dataclass(frozen=True, slots=True)
class RunResult:
    """Of a test run: the program's answer, the packet and context as it left them, ns a run."""

    retval: int
    packet: bytes
    context: bytes
    duration: int


def run(fd: int, packet: bytes, context: bytes = b"", repeat: int = 1) -> RunResult:
    """BPF_PROG_TEST_RUN: the program behind `fd` on one packet.

    `context` is a `struct __sk_buff` whose ifindex, mark, cb and the like the kernel takes over.
    """
    data_in = ctypes.create_string_buffer(packet, len(packet))
    data_out = ctypes.create_string_buffer(len(packet) + 512)
    context_in = ctypes.create_string_buffer(context, max(len(context), 1))
    context_out = ctypes.create_string_buffer(max(len(context), 1))
    attr = struct.pack(
        "=IIIIQQIIIIQQ",
        fd,
        0,
        len(packet),
        len(data_out),
        _address(data_in),
        _address(data_out),
        repeat,
        0,
        len(context),
        len(context),
        _address(context_in) if context else 0,
        _address(context_out) if context else 0,
    )
    _, left = _bpf(_PROG_TEST_RUN, attr)
    _, retval, _, size = struct.unpack_from("=IIII", left, 0)
    duration = struct.unpack_from("=I", left, 36)[0]
    return RunResult(retval, data_out.raw[:size], context_out.raw[: len(context)], duration)
