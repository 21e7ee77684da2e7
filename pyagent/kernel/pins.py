"""The bpffs under the state directory and the folder of pins in it, named after the ABI.

Called by the loader, and by every command that reads maps while no agent runs.
"""

from __future__ import annotations

import ctypes
import os
import re
from pathlib import Path

from pyagent.errors import KernelError
from pyagent.kernel import abi

_libc = ctypes.CDLL(None, use_errno=True)
_MNT_DETACH = 2


def mount_point(state_dir: Path) -> Path:
    """Where the agent's own bpffs is mounted."""
    return state_dir / "bpf"


def pin_directory(state_dir: Path) -> Path:
    """The folder of this version's pins."""
    return mount_point(state_dir) / f"abi{abi.load().version}"


def _is_bpffs(path: Path) -> bool:
    wanted = os.fsencode(path.resolve())
    for line in Path("/proc/self/mountinfo").read_bytes().splitlines():
        fields, _, source = line.partition(b" - ")
        if _unescaped(fields.split()[4]) == wanted and source.split()[0] == b"bpf":
            return True
    return False


def _unescaped(field: bytes) -> bytes:
    """A path as proc(5) writes it: space, tab, newline and backslash as three octal digits."""
    return re.sub(rb"\\([0-7]{3})", lambda found: bytes([int(found[1], 8)]), field)


def mount(state_dir: Path) -> Path:
    """Mounts the bpffs unless it is there, and returns the folder of pins, made if need be."""
    point = mount_point(state_dir)
    try:
        point.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise KernelError(f"{point}: cannot be made: {error.strerror}") from None
    if not _is_bpffs(point) and _libc.mount(b"bpf", os.fsencode(point), b"bpf", 0, b"mode=0700"):
        reason = os.strerror(ctypes.get_errno())
        raise KernelError(f"{point}: no bpffs can be mounted here: {reason}")
    folder = pin_directory(state_dir)
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def unmount(state_dir: Path) -> bool:
    """Takes the bpffs away, and with it every pin; False when it was not mounted."""
    point = mount_point(state_dir)
    if not point.is_dir() or not _is_bpffs(point):
        return False
    if _libc.umount2(os.fsencode(point), _MNT_DETACH):
        reason = os.strerror(ctypes.get_errno())
        raise KernelError(f"{point}: cannot be unmounted: {reason}")
    return True
