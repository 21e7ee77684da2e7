"""Which files of a directory are manifests, and their text. Used by `directory`, `agent_config`
and `sources`."""

from __future__ import annotations

import os
import stat
import time
from pathlib import Path

from pyagent.errors import InvalidState, Problem
from pyagent.manifests.text import one_line

MAX_BYTES = 64 * 1024 * 1024
_CLOCK_STEPS = 2_000_000_000  # ns, many times the step of file systems' clocks


class Unreadable(Exception):
    """A file whose text cannot be had; `str(error)` says why."""


def is_manifest_name(name: str) -> bool:
    """Whether a file is read: `*.yaml` and `*.yml`, but nothing hidden or of an editor."""
    return name.endswith((".yaml", ".yml")) and not name.startswith((".", "#", "~"))


def manifest_files(directory: Path) -> list[Path]:
    """The manifests right inside a directory, by name. Raises InvalidState."""
    try:
        with os.scandir(directory) as entries:
            found = sorted(entry.name for entry in entries if is_manifest_name(entry.name))
    except (OSError, ValueError) as error:
        raise InvalidState(
            (Problem(show(directory), 0, "", f"cannot read the directory: {_reason(error)}"),)
        ) from error
    return [directory / name for name in found]


def mark_of(path: Path) -> tuple[int, ...] | None:
    """What tells that a file is still the same one unchanged; None when that can't be told.

    A file that was changed a moment ago may change again within the clock's step.
    """
    try:
        status = os.stat(path)  # noqa: PTH116 - for each of thousands of files, each time
    except (OSError, ValueError):
        return None
    if abs(time.time_ns() - status.st_ctime_ns) < _CLOCK_STEPS:
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def show(path: Path) -> str:
    """A path as problems and origins name it."""
    return one_line(str(path))


def read_manifest(path: Path) -> str | None:
    """The text of a file; None for a directory and for a file that has just been removed."""
    try:
        return read_text(path)
    except IsADirectoryError:
        return None
    except FileNotFoundError as error:
        if path.is_symlink():
            raise Unreadable("is a link to a file that does not exist") from error
        return None


def read_text(path: Path) -> str:
    """The text of a regular UTF-8 file. Raises Unreadable, or the two errors named above."""
    try:
        data = _read_bytes(path)
    except (FileNotFoundError, IsADirectoryError):
        raise
    except (OSError, ValueError) as error:
        raise Unreadable(f"cannot be read: {_reason(error)}") from error
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise Unreadable(f"line {line}: not UTF-8 text (byte 0x{data[error.start]:02x})") from error


def _read_bytes(path: Path) -> bytes:
    # O_NONBLOCK: opening a named pipe must not wait for its writer
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if stat.S_ISDIR(status.st_mode):
            raise IsADirectoryError
        if not stat.S_ISREG(status.st_mode):
            raise Unreadable("is not a regular file")
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise Unreadable(f"is larger than {MAX_BYTES // 1024 // 1024} MiB")
    return data


def _reason(error: OSError | ValueError) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or one_line(str(error))
