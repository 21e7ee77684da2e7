"""Running processes, held by pidfd so that no signal can hit another process with the same number.

Used by `record`, `process` and `status`.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
from collections.abc import Iterator
from pathlib import Path

PROC = Path("/proc")
_PAGE = os.sysconf("SC_PAGE_SIZE")
_DELETED = " (deleted)"  # proc(5): the binary was replaced on disk since its start
_START_TIME = 22 - 3  # proc(5), field 22, counted from the first after the command's name


def start_time(pid: int) -> int | None:
    """When the process started, in clock ticks since boot; None when there is none.

    It stays the same over exec, and tells a process from a later one with the same number.
    """
    try:
        stat = (PROC / str(pid) / "stat").read_bytes()
    except OSError:
        return None
    return int(stat.rpartition(b")")[2].split()[_START_TIME])


def executable(pid: int) -> str | None:
    """Path of the binary that the process runs, also when that file has been replaced since."""
    try:
        return str((PROC / str(pid) / "exe").readlink()).removesuffix(_DELETED)
    except OSError:
        return None


def owner(pid: int) -> int | None:
    """Real user id of the process."""
    try:
        status = (PROC / str(pid) / "status").read_bytes()
    except OSError:
        return None
    for line in status.splitlines():
        if line.startswith(b"Uid:"):
            return int(line.split()[1])
    return None


def resident_bytes(pid: int) -> int | None:
    """Memory of the process that is in RAM, in bytes, as the kernel counts it."""
    try:
        return int((PROC / str(pid) / "statm").read_text().split()[1]) * _PAGE
    except (OSError, IndexError):
        return None


def with_argument(argument: str) -> Iterator[int]:
    """Every process that has this argument on its command line."""
    for entry in PROC.iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if argument.encode() in (entry / "cmdline").read_bytes().split(b"\0"):
                    yield int(entry.name)


def _signal_name(number: int) -> str:
    """Its name; most real-time signals have none."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


class Process:
    """One process, ours or an adopted one. Not to be used after `close`."""

    def __init__(self, pid: int) -> None:
        """Take hold of a process; ProcessLookupError when there is none."""
        self.pid = pid
        self.pidfd = os.pidfd_open(pid)

    def alive(self) -> bool:
        """Whether the process still runs (a zombie does not)."""
        return not self.wait(0)

    def wait(self, timeout: float) -> bool:
        """Wait for the end of the process for at most `timeout` seconds; whether it has come."""
        poll = select.poll()
        poll.register(self.pidfd, select.POLLIN)
        return bool(poll.poll(timeout * 1000))

    def signal(self, number: signal.Signals) -> None:
        """Send a signal; one that has ended is left in peace."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, number)

    def ending(self) -> str:
        """How the process ended, as far as its parent, and nobody else, can tell."""
        options = os.WEXITED | os.WNOHANG | os.WNOWAIT
        try:
            result = os.waitid(os.P_PIDFD, self.pidfd, options)
        except ChildProcessError:
            return "gone"
        if result is None:
            return "still running"
        if result.si_code == os.CLD_EXITED:
            return f"exited with {result.si_status}"
        return f"killed by {_signal_name(result.si_status)}"

    def close(self) -> None:
        """Let go of the process, and reap it if it has ended and is our child."""
        with contextlib.suppress(ChildProcessError):  # an adopted one: its parent reaps it
            os.waitid(os.P_PIDFD, self.pidfd, os.WEXITED | os.WNOHANG)
        os.close(self.pidfd)
