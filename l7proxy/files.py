"""Files in a proxy's directory, handled so that the proxy cannot turn them against the caller.

The caller is root and the directory belongs to the proxy's user, who may put links there. No
function here follows one, and none reads more than it should. Used by everything that touches
the directory.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from l7proxy.errors import ProxyFailure

MAX_READ = 1024 * 1024


def make_directory(path: str, uid: int, gid: int) -> None:
    """Make sure that the directory exists, is a real one, mode 0700, and belongs to the user."""
    try:
        Path(path).mkdir(mode=0o700, exist_ok=True)
        with _opened(path) as directory:
            os.fchown(directory, uid, gid)
            os.fchmod(directory, 0o700)
    except OSError as error:
        raise ProxyFailure(f"proxy directory {path}: {error.strerror}") from error


def write(path: str, text: str, uid: int, gid: int) -> None:
    """Replace the file by rename: a reader sees the old text or the new one, whole."""
    directory, name = os.path.split(path)
    temporary = f".{name}.new"
    try:
        with _opened(directory) as folder:
            _unlink(temporary, folder)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
            file = os.open(temporary, flags, 0o600, dir_fd=folder)
            with os.fdopen(file, "w", encoding="utf-8") as stream:
                os.fchown(file, uid, gid)
                stream.write(text)
            os.rename(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
    except OSError as error:
        raise ProxyFailure(f"cannot write {path}: {error.strerror}") from error


def read(path: str, start: int = 0) -> str | None:
    """The file's text from byte `start` on (at most the last 1 MiB), None when there is none."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        file = os.open(path, flags)
    except OSError:
        return None
    with os.fdopen(file, "rb") as stream:
        try:
            stream.seek(max(start, os.fstat(file).st_size - MAX_READ))
            return stream.read(MAX_READ).decode("utf-8", "replace")
        except OSError:
            return None


def open_log(path: str, keep: int) -> int:
    """Open a log for appending; one that has grown beyond `keep` bytes starts anew."""
    set_aside(path, keep)
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        return os.open(path, flags, 0o600)
    except OSError as error:
        raise ProxyFailure(f"cannot write {path}: {error.strerror}") from error


def set_aside(path: str, keep: int) -> bool:
    """Rename a file of more than `keep` bytes to PATH.1, in place of an older one."""
    try:
        if os.lstat(path).st_size <= keep:
            return False
        Path(path).rename(f"{path}.1")
    except OSError:
        return False
    return True


def remove(path: str) -> None:
    """Remove a file, a link or a socket; nothing happens when there is none."""
    _unlink(path, None)


def _unlink(name: str, folder: int | None) -> None:
    try:
        os.unlink(name, dir_fd=folder)
    except FileNotFoundError:
        return


@contextmanager
def _opened(path: str) -> Iterator[int]:
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        yield directory
    finally:
        os.close(directory)
