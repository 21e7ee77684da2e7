"""Taking everything away that an agent made: filters, interfaces, proxies, pins, files.

`sluice cleanup` calls it, with no agent running. It goes by what it finds, not by a record: our
filters on this namespace's interfaces, our aliases, our namespaces, the proxies' own records.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from l7proxy.process import stop_recorded
from pyagent.agent.service import cgroup_of, exclusive
from pyagent.config import AgentConfig
from pyagent.errors import KernelError
from pyagent.kernel import bpf, loader, pins
from pyagent.kernel.netlink import Netlink, delete_namespace, namespace_path
from pyagent.kernel.wiring import Wiring
from pyagent.proxies import proxies_directory

Say = Callable[[str], None]


def clean_up(config: AgentConfig, say: Say) -> None:
    """Removes all that this configuration's agent has made, telling each step through `say`.

    SluiceError, and nothing done, while the agent runs. Again is the same.
    """
    if config.run_dir.is_dir():
        with exclusive(config.run_dir):
            _clean_up(config, say)
        for name in ("agent.lock", "events.sock"):
            (config.run_dir / name).unlink(missing_ok=True)
        with suppress(OSError):
            config.run_dir.rmdir()
    else:
        _clean_up(config, say)


def _clean_up(config: AgentConfig, say: Say) -> None:
    wiring = Wiring(config.state_dir)
    programs = _pinned_programs(pins.mount_point(config.state_dir))
    with Netlink() as netlink:
        _detach_all(netlink, wiring, programs, say)
        _stop_proxies(config, say)
        _remove_links(netlink, wiring, say)
    for path in namespace_path("").glob(wiring.proxy_namespace("*")):
        delete_namespace(path.name)
        say(f"network namespace {path.name}: removed")
    _remove_cgroup(config)
    if pins.unmount(config.state_dir):
        say(f"pins in {pins.mount_point(config.state_dir)}: removed")
    _remove_files(config, say)


def _pinned_programs(mount_point: Path) -> frozenset[int]:
    """Kernel ids of every pinned program, whatever its version."""
    ids = set()
    for folder in mount_point.glob("*/programs-*"):
        for name in loader.PROGRAMS:
            with suppress(OSError):
                fd = bpf.open_pin(folder / name)
                ids.add(bpf.program_id(fd))
                bpf.close(fd)
    return frozenset(ids)


def _detach_all(netlink: Netlink, wiring: Wiring, programs: frozenset[int], say: Say) -> None:
    """From interfaces that Sluice did not make; those it made go as a whole."""
    for link in netlink.links():
        if link.kind == "veth" and wiring.owner(link) is None:
            attached = set(netlink.attached(link.index).values())
            if attached & programs:
                netlink.detach(link.index)
                say(f"filters of {link.name}: removed")


def _stop_proxies(config: AgentConfig, say: Say) -> None:
    folder = proxies_directory(config.state_dir)
    for directory in sorted(folder.iterdir()) if folder.is_dir() else ():
        if stop_recorded(str(directory), drain=0.0):
            say(f"proxy of {directory.name}: stopped")


def _remove_links(netlink: Netlink, wiring: Wiring, say: Say) -> None:
    for link in netlink.links():
        owner = wiring.owner(link)
        if owner is not None:
            netlink.delete_link(link.index)
            say(f"interface {link.name} of {owner[0]} {owner[1]}: removed")


def _remove_cgroup(config: AgentConfig) -> None:
    try:
        folder = cgroup_of(config)
    except KernelError:
        return
    for child in folder.glob("proxy-*"):
        with suppress(OSError):
            child.rmdir()
    with suppress(OSError):
        folder.rmdir()


def _remove_files(config: AgentConfig, say: Say) -> None:
    folder = proxies_directory(config.state_dir)
    if folder.is_dir():
        shutil.rmtree(folder)
    for name in ("state.json", "numbers.json", "compile.log"):
        (config.state_dir / name).unlink(missing_ok=True)
    with suppress(OSError):
        pins.mount_point(config.state_dir).rmdir()
    with suppress(OSError):
        config.state_dir.rmdir()
        say(f"{config.state_dir}: removed")
