"""Taking everything away that an agent made: filters, interfaces, proxies, pins, files.

`sluice cleanup` calls it, with no agent running. It goes by what it finds, not by a record: our
filters on this namespace's interfaces, our aliases, our namespaces, the proxies' own records.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from l7proxy import files
from l7proxy.process import stop_recorded
from pyagent.agent.service import cgroup_of, exclusive
from pyagent.config import AgentConfig
from pyagent.errors import KernelError
from pyagent.kernel import bpf, pins
from pyagent.kernel.netlink import Netlink, delete_namespace, namespace_path
from pyagent.kernel.wiring import Wiring
from pyagent.proxies import proxies_directory
from pyagent.state import left_unfinished

Say = Callable[[str], None]

_CGROUP_EMPTIES = 5.0  # seconds


def clean_up(config: AgentConfig, say: Say) -> None:
    """Removes all that this configuration's agent has made, telling each step through `say`.

    SluiceError, and nothing done, while the agent runs. Again is the same.
    """
    if config.run_dir.is_dir():
        with exclusive(config):
            _clean_up(config, say)
        for name in ("agent.lock", "events.sock"):
            (config.run_dir / name).unlink(missing_ok=True)
        with suppress(OSError):
            config.run_dir.rmdir()
    else:
        _clean_up(config, say)


def _clean_up(config: AgentConfig, say: Say) -> None:
    wiring = Wiring(config.state_dir)
    maps = _pinned_maps(pins.mount_point(config.state_dir))
    with Netlink() as netlink:
        _detach_all(netlink, wiring, maps, say)
        _stop_proxies(config, say)
        _remove_links(netlink, wiring, say)
    for path in namespace_path("").glob(wiring.proxy_namespace("*")):
        delete_namespace(path.name)
        say(f"network namespace {path.name}: removed")
    if pins.unmount(config.state_dir):
        say(f"pins in {pins.mount_point(config.state_dir)}: removed")
    _remove_files(config, say)


def _pinned_maps(mount_point: Path) -> frozenset[int]:
    """Kernel ids of every pinned map, whatever its version."""
    ids = set()
    for path in mount_point.glob("*/*"):
        if path.is_file():
            with suppress(OSError):
                pinned = bpf.Map(bpf.open_pin(path))
                ids.add(pinned.info.id)
                pinned.close()
    return frozenset(ids)


def _uses(program: int, maps: frozenset[int]) -> bool:
    """Whether the program of that id works on one of these maps."""
    try:
        fd = bpf.open_program(program)
    except OSError:
        return False
    try:
        return bool(bpf.program_map_ids(fd) & maps)
    finally:
        bpf.close(fd)


def _detach_all(netlink: Netlink, wiring: Wiring, maps: frozenset[int], say: Say) -> None:
    """From interfaces that Sluice did not make; those it made go as a whole."""
    for link in netlink.links():
        if link.kind != "veth" or wiring.owner(link) is not None:
            continue
        if any(_uses(program, maps) for program in netlink.attached(link.index).values()):
            netlink.detach(link.index)
            say(f"filters of {link.name}: removed")


def _stop_proxies(config: AgentConfig, say: Say) -> None:
    """By their records, and by their cgroups where a record is lost."""
    folder = proxies_directory(config.state_dir)
    for directory in sorted(folder.iterdir()) if folder.is_dir() else ():
        if stop_recorded(str(directory), drain=0.0):
            say(f"proxy of {directory.name}: stopped")
    try:
        cgroup = cgroup_of(config)
    except KernelError:
        return
    for child in sorted(cgroup.glob("proxy-*")):
        if (child / "cgroup.procs").read_text():
            (child / "cgroup.kill").write_text("1")
            say(f"processes of {child.name}: killed")
        _remove_cgroup(child)
    with suppress(OSError):
        cgroup.rmdir()


def _remove_cgroup(folder: Path) -> None:
    """Its last process may take a moment to go."""
    deadline = time.monotonic() + _CGROUP_EMPTIES
    while True:
        try:
            return folder.rmdir()
        except OSError as error:
            if error.errno != errno.EBUSY or time.monotonic() > deadline:
                raise KernelError(f"{folder}: cannot be removed: {error.strerror}") from None
        time.sleep(0.01)


def _remove_links(netlink: Netlink, wiring: Wiring, say: Say) -> None:
    for link in netlink.links():
        owner = wiring.owner(link)
        if owner is not None:
            netlink.delete_link(link.index)
            say(f"interface {link.name} ({' '.join(owner).strip()}): removed")


def _remove_files(config: AgentConfig, say: Say) -> None:
    folder = proxies_directory(config.state_dir)
    if folder.is_dir():
        files.remove_tree(str(folder))  # the proxies may have left anything
    for path in left_unfinished(config.state_dir):
        path.unlink()
    for name in ("state.json", "numbers.json", "compile.log"):
        (config.state_dir / name).unlink(missing_ok=True)
    with suppress(OSError):
        pins.mount_point(config.state_dir).rmdir()
    with suppress(OSError):
        config.state_dir.rmdir()
        say(f"{config.state_dir}: removed")
