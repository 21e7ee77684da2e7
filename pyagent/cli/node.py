"""What the reading commands share: configuration, the state left on disk, the pinned maps.

Used by the commands that tell of a node, whether an agent runs there or not. Whatever is missing
or may not be read becomes one line that says what to do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import click

from pyagent.compiler.rows import ANY_PEER, IDENTITY_NODE, IDENTITY_WORLD
from pyagent.config import AgentConfig
from pyagent.errors import KernelError, SluiceError
from pyagent.kernel import abi
from pyagent.kernel.pins import mount_point, pin_directory
from pyagent.kernel.tables import Table, Tables
from pyagent.manifests import load_agent_config
from pyagent.state import NodeState, read_state

_RESERVED = {ANY_PEER: "any", IDENTITY_NODE: "node", IDENTITY_WORLD: "world"}


class NothingPinned(KernelError):
    """There are no maps, of this version or another."""


@dataclass(frozen=True, slots=True)
class Names:
    """What the numbers in the maps stand for. `interfaces`: node-side ifindex to workload."""

    identities: Mapping[int, str] = field(default_factory=lambda: _RESERVED)
    rules: Mapping[int, str] = field(default_factory=dict)
    tenants: Mapping[int, str] = field(default_factory=dict)
    interfaces: Mapping[int, str] = field(default_factory=dict)


def names_of(state: NodeState | None) -> Names:
    """The names that a state gives; the reserved ones alone without a state."""
    if state is None:
        return Names()
    return Names(
        identities={**_RESERVED, **state.identities},
        rules=state.rules,
        tenants=state.tenants,
        interfaces={workload.ifindex: workload.key for workload in state.workloads},
    )


def read_config(path: Path) -> AgentConfig:
    """The agent's configuration. Raises InvalidState or SluiceError."""
    try:
        path.open("rb").close()
    except FileNotFoundError:
        raise SluiceError(f"{path}: no such file: name the agent's with --config") from None
    except PermissionError:
        raise SluiceError(f"{path}: permission denied: run as root") from None
    except OSError as error:
        raise SluiceError(f"{path}: cannot be read: {error.strerror}") from None
    return load_agent_config(path)


def state_if_readable(state_dir: Path) -> NodeState | None:
    """The state on disk, if any. An unreadable one is told on stderr: the maps are still there.

    Open the maps before: where they may not be read, their error is the one to tell.
    """
    try:
        return read_state(state_dir)
    except SluiceError as error:
        click.echo(f"sluice: {error}: numbers are shown without their names", err=True)
        return None


def state_in_force(state_dir: Path) -> NodeState:
    """The state on disk. Raises SluiceError when there is none, or none that can be read."""
    state = read_state(state_dir)
    if state is None:
        raise SluiceError(f"{state_dir}: no agent has run with this stateDir: start sluice agent")
    return state


def pinned(state_dir: Path) -> Path:
    """The folder of this version's pins. Raises NothingPinned or another KernelError."""
    pins = pin_directory(state_dir)
    try:
        pins.stat()
    except PermissionError:
        raise KernelError(f"{pins}: permission denied: run as root") from None
    except (FileNotFoundError, NotADirectoryError):
        raise _not_pinned(state_dir) from None
    return pins


def _not_pinned(state_dir: Path) -> KernelError:
    point = mount_point(state_dir)
    others = ", ".join(sorted(path.name for path in point.glob("abi*")))
    if others:
        return KernelError(
            f"{point}: the maps are another version's ({others}, this is "
            f"abi{abi.load().version}): use the sluice that made them, or start its agent anew"
        )
    return NothingPinned(
        f"{point}: no maps are pinned: no agent has run with this stateDir since the last boot"
    )


def open_tables(state_dir: Path) -> Tables:
    """All pinned maps; the caller closes them. Raises KernelError."""
    return Tables(pinned(state_dir))


def open_table(state_dir: Path, name: str) -> Table:
    """One pinned map by its name in `abi`; the caller closes `Table.map`. Raises KernelError."""
    return Table(pinned(state_dir), abi.load().maps[name])
