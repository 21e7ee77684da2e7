"""What the kernel's bpf(2) accepts, found out by asking it. Used by `probe` alone.

Each question is one tiny program or map that is closed again at once: nothing is attached,
pinned or kept. Layouts and numbers are those of linux/bpf.h, which are the kernel's stable ABI.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct

SYS_BPF = {"x86_64": 321, "aarch64": 280, "riscv64": 280, "ppc64le": 361, "s390x": 351}
BPF_MAP_CREATE = 0
BPF_PROG_LOAD = 5
BPF_F_NO_PREALLOC = 1

PROGRAM_TYPES = {"sched_cls": 3, "sock_ops": 13, "sk_msg": 16}
HELPERS = {
    "bpf_clone_redirect": 13,
    "bpf_redirect": 23,
    "bpf_skb_change_type": 32,
    "bpf_skc_lookup_tcp": 99,
    "bpf_sk_assign": 124,
    "bpf_ringbuf_output": 130,
    "bpf_redirect_peer": 155,
}
# Type, key size, value size, entries (ring buffer: bytes), flags.
MAPS = {
    "hash": (1, 4, 4, 1, 0),
    "percpu_hash": (5, 4, 4, 1, 0),
    "percpu_array": (6, 4, 4, 1, 0),
    "lru_hash": (9, 4, 4, 16, 0),
    "lpm_trie": (11, 20, 4, 1, BPF_F_NO_PREALLOC),
    "sockhash": (18, 4, 4, 1, 0),
    "ringbuf": (27, 0, 0, os.sysconf("SC_PAGE_SIZE"), 0),
}

_CALL, _EXIT, _MOVE = 0x85, 0x95, 0xB7  # opcodes: call a helper, exit, load an immediate
_LICENSE = ctypes.create_string_buffer(b"GPL")  # some helpers are for GPL programs only
_LOG_SIZE = 65_536

# What the verifier says of a helper that it does not have, or not for this type of program.
_UNKNOWN_HELPER = ("invalid func", "unknown func", "cannot use helper")


def program_type(name: str) -> str | None:
    """None if a program of this type can be loaded, else the kernel's reason."""
    trivial = _instruction(_MOVE, 0) + _instruction(_EXIT, 0)
    error, _log = _load(PROGRAM_TYPES[name], trivial)
    return error


def helper(name: str) -> str | None:
    """None if TC programs may call this helper, else the kernel's reason.

    The call has no arguments and is refused either way; only a helper that is not there is
    refused by name.
    """
    call = _instruction(_CALL, HELPERS[name]) + _instruction(_EXIT, 0)
    error, log = _load(PROGRAM_TYPES["sched_cls"], call)
    if error is None or (log and not any(text in log for text in _UNKNOWN_HELPER)):
        return None
    return "not offered to TC programs" if log else error


def map_type(name: str) -> str | None:
    """None if a map of this type can be made, else the kernel's reason."""
    attributes = struct.pack("=5I", *MAPS[name]).ljust(64, b"\0")
    return _bpf(BPF_MAP_CREATE, attributes)


def _instruction(opcode: int, immediate: int) -> bytes:
    """One instruction (struct bpf_insn) on register 0."""
    return struct.pack("=BBhi", opcode, 0, 0, immediate)


def _load(number: int, instructions: bytes) -> tuple[str | None, str]:
    """Load a program and close it again: the kernel's reason if it refused, the verifier's log."""
    code = ctypes.create_string_buffer(instructions, len(instructions))
    log = ctypes.create_string_buffer(_LOG_SIZE)
    attributes = struct.pack(
        "=IIQQIIQII16sII",
        number,
        len(instructions) // 8,
        ctypes.addressof(code),
        ctypes.addressof(_LICENSE),
        1,  # log level
        _LOG_SIZE,
        ctypes.addressof(log),
        0,  # kernel version: of no meaning since 5.0
        0,  # flags
        b"sluice_probe",
        0,  # interface: only for programs in hardware
        0,  # expected attach type
    )
    error = _bpf(BPF_PROG_LOAD, attributes)
    return error, log.value.decode(errors="replace")


def _bpf(command: int, attributes: bytes) -> str | None:
    """bpf(2), closing what it makes: None, or the kernel's reason."""
    number = SYS_BPF.get(platform.machine())
    if number is None:
        return f"the number of bpf(2) on {platform.machine()} is not known"
    libc = ctypes.CDLL(None, use_errno=True)
    buffer = ctypes.create_string_buffer(attributes, len(attributes))
    descriptor: int = libc.syscall(number, command, buffer, len(attributes))
    if descriptor < 0:
        return os.strerror(ctypes.get_errno())
    os.close(descriptor)
    return None
