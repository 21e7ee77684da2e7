"""Files in a proxy's directory, handled so that the proxy cannot turn them against the caller.

The caller is root and the directory belongs to the proxy's user, who may put links there. No
function here follows one, and none reads more than it should. Used by everything that touches
the directory.
"""

from __future__ import annotations

import os
import secrets
import stat
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from l7proxy.errors import ProxyFailure

MAX_READ = 1024 * 1024
_REMOVAL_ENDS = 60.0  # seconds


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
        for place in (path, f"{directory}/{temporary}"):
            _clear_way(place)
        with _opened(directory) as folder:
            with suppress(FileNotFoundError):
                os.unlink(temporary, dir_fd=folder)
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
    try:
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        seen = os.fstat(file)
        if not stat.S_ISREG(seen.st_mode):
            return None
        content = os.pread(file, MAX_READ, max(start, seen.st_size - MAX_READ))
        return content.decode("utf-8", "replace")
    except OSError:
        return None
    finally:
        os.close(file)


def open_log(path: str, keep: int) -> int:
    """Open a log for appending; one that has grown beyond `keep` bytes starts anew, and so does
    one that is no log: a link, a pipe, or a file that has another name as well."""
    set_aside(path, keep)
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        if os.path.lexists(path) and not _is_plain(os.lstat(path)):
            remove(path)
        log = os.open(path, flags, 0o600)
    except OSError as error:
        raise ProxyFailure(f"cannot write {path}: {error.strerror}") from error
    if not _is_plain(os.fstat(log)):  # put there since
        os.close(log)
        raise ProxyFailure(f"cannot write {path}: it is not a file of its own")
    return log


def empty(path: str, keep: int) -> bool:
    """Empty a log of more than `keep` bytes that its writer holds open, if the caller made it;
    whether it was."""
    try:
        log = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        seen = os.fstat(log)
        grown = _is_plain(seen) and seen.st_uid == os.geteuid() and seen.st_size > keep
        if grown:
            os.ftruncate(log, 0)
        return grown
    finally:
        os.close(log)


def _is_plain(seen: os.stat_result) -> bool:
    """Whether it is a regular file with no second name, by which it could be anybody's."""
    return stat.S_ISREG(seen.st_mode) and seen.st_nlink == 1


def set_aside(path: str, keep: int) -> None:
    """Rename a file of more than `keep` bytes to PATH.1, in place of an older one."""
    with suppress(OSError):
        if os.lstat(path).st_size > keep:
            _clear_way(f"{path}.1")
            Path(path).rename(f"{path}.1")


def remove(path: str) -> None:
    """Remove a file, a link, a pipe or a socket; nothing happens when there is none."""
    try:
        _clear_way(path)
        Path(path).unlink(missing_ok=True)
    except OSError as error:
        raise ProxyFailure(f"cannot remove {path}: {error.strerror}") from error


def remove_tree(path: str) -> None:
    """Remove a directory and all that is in it, however deep; no link is followed.

    ProxyFailure when something stays.
    """
    command = ("rm", "-rf", "--one-file-system", "--", path)
    try:
        subprocess.run(command, capture_output=True, timeout=_REMOVAL_ENDS, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        raise ProxyFailure(f"cannot remove {path}") from error


def _clear_way(path: str) -> None:
    """A directory where a file belongs was made by the proxy, to be in the way. To remove what may
    be in it could take long: it gets another name, and goes with the proxy's own directory."""
    if os.path.lexists(path) and stat.S_ISDIR(os.lstat(path).st_mode):
        Path(path).rename(f"{path}.{secrets.token_hex(8)}")


@contextmanager
def _opened(path: str) -> Iterator[int]:
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        yield directory
    finally:
        os.close(directory)
