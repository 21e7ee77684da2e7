"""Network namespaces, entered for a moment by one thread, and told apart. Called by `netlink`,
which opens its sockets inside, and by the agent.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)

NamespaceId = tuple[int, int]


def namespace_id(path: str) -> NamespaceId | None:
    """What tells the namespace at `path` from one that takes its place (namespaces(7)); None when
    there is none."""
    try:
        status = Path(path).stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _enter(descriptor: int) -> None:
    if _libc.setns(descriptor, _CLONE_NEWNET):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def _open(path: str) -> int:
    """A descriptor of what is at `path`, if it may be a namespace. To open anything else could wait
    for ever (a pipe) or do something (a device), and manifests name the paths."""
    place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(place).st_mode):
            raise OSError(errno.EINVAL, "it is no network namespace")
        return os.open(f"/proc/self/fd/{place}", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(place)


@contextmanager
def entered(path: str) -> Iterator[None]:
    """The calling thread, and no other, is in the namespace meanwhile (setns(2)). OSError.

    A socket belongs for ever to the namespace that it was made in.
    """
    own = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        there = _open(path)
        try:
            _enter(there)
        finally:
            os.close(there)
        try:
            yield
        finally:
            _enter(own)
    finally:
        os.close(own)
