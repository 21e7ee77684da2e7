"""One demo at a time, and nothing left of it: the lock, and the clean-up by what is found.

Called by the command line, before a demo for what an earlier one has left behind, and after it.
Nothing here needs to know how far that demo came.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from l7proxy import procfs
from pyagent.demo import places
from pyagent.demo.world import make_node, write_config
from pyagent.errors import SluiceError
from pyagent.kernel.netlink import delete_namespace, namespace_path

Say = Callable[[str], None]

_AGENT_ENDS = 10.0  # seconds that the agent gets after SIGTERM
_DIES = 5.0  # seconds that a process gets after SIGKILL
_CLEANUP_ENDS = 60.0


@contextmanager
def claim() -> Iterator[None]:
    """Makes the demo's directory and holds it; SluiceError while another demo does."""
    descriptor = _lock()
    try:
        yield
    finally:
        with suppress(OSError):
            places.DIRECTORY.rmdir()  # if nothing was made, or all is cleared
        os.close(descriptor)


def _lock() -> int:
    while True:
        try:
            places.DIRECTORY.mkdir(exist_ok=True)
            descriptor = os.open(places.DIRECTORY, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            os.fchmod(descriptor, 0o711)  # proxies, which are no root, pass through
        except FileNotFoundError:
            continue  # its owner has just removed it
        except OSError as error:
            message = f"{places.DIRECTORY}: cannot be made: {error.strerror}"
            raise SluiceError(message) from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(descriptor), places.DIRECTORY.stat()):
                return descriptor
        except BlockingIOError:
            os.close(descriptor)
            raise SluiceError("another sluice demo is at work: wait until it has ended") from None
        except FileNotFoundError:
            pass
        os.close(descriptor)  # removed, or made anew, meanwhile


def refuse_kept() -> None:
    """SluiceError while a demo runs on that its user wanted to keep."""
    if places.KEPT.exists() and any(_agents()):
        raise SluiceError("a demo was kept and still runs: end it with sluice demo --clean")


def keep() -> None:
    """Marks the demo as one that is to run on."""
    places.KEPT.touch()


def found() -> bool:
    """Whether there is anything of a demo on this machine."""
    return any(True for _ in places.DIRECTORY.iterdir()) or any(_namespaces())


def clear(say: Say) -> None:
    """Takes everything away that any demo has made. SluiceError, at the end, if something stays."""
    failures = []
    for step in (_stop_agent, _clean_node, _stop_servers, _remove_namespaces, _remove_files):
        try:
            step(say)
        except SluiceError as error:
            failures.append(str(error))
    if failures:
        raise SluiceError("; ".join(failures))


def _stop_agent(say: Say) -> None:
    for pid in _agents():
        say("stopping the agent")
        _end(pid, _is_agent, signal.SIGTERM, _AGENT_ENDS)


def _clean_node(say: Say) -> None:
    """What the agent made goes by its own command, in the node's namespace."""
    if not places.STATE.exists() and not places.RUN.exists():
        return
    say("sluice cleanup")
    make_node()
    write_config()
    done = places.run(places.NODE_NAMESPACE, (places.sluice(), "cleanup"), _CLEANUP_ENDS)
    if done.returncode:
        raise SluiceError(done.stderr.strip().removeprefix("sluice: "))


def _stop_servers(say: Say) -> None:
    servers = list(_servers())
    if servers:
        say("stopping the servers")
    for pid in servers:
        _end(pid, _is_server, signal.SIGKILL, _DIES)


def _remove_namespaces(say: Say) -> None:
    namespaces = list(_namespaces())
    if namespaces:
        say("removing the network namespaces")
    for path in namespaces:
        delete_namespace(path.name)


def _remove_files(_say: Say) -> None:
    for path in places.DIRECTORY.iterdir():
        try:
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        except OSError as error:
            message = f"{error.filename}: cannot be removed: {error.strerror}"
            raise SluiceError(message) from None


def _namespaces() -> Iterator[Path]:
    yield from sorted(namespace_path("").glob(f"{places.PREFIX}*"))


def _agents() -> Iterator[int]:
    yield from filter(_is_agent, procfs.with_argument(str(places.CONFIG)))


def _is_agent(pid: int) -> bool:
    words = f"\0agent\0--config\0{places.CONFIG}\0".encode()
    with suppress(OSError):
        return words in (procfs.PROC / str(pid) / "cmdline").read_bytes()
    return False


def _servers() -> Iterator[int]:
    yield from filter(_is_server, procfs.with_argument(places.SERVER))


def _is_server(pid: int) -> bool:
    """Whether it runs in a namespace of the demo: tests and people run such servers elsewhere."""
    with suppress(OSError):
        its_own = (procfs.PROC / str(pid) / "ns/net").stat()
        return any(os.path.samestat(its_own, path.stat()) for path in _namespaces())
    return False


def _end(pid: int, still: Callable[[int], bool], first: signal.Signals, patience: float) -> None:
    """Ends the process that `still` recognises, by SIGKILL in the end."""
    try:
        process = procfs.Process(pid)
    except OSError:
        return
    try:
        for number, seconds in ((first, patience), (signal.SIGKILL, _DIES)):
            if not still(pid):
                return
            process.signal(number)
            if process.wait(seconds):
                return
        raise SluiceError(f"process {pid} cannot be killed")
    finally:
        process.close()
