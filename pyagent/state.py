"""What the agent leaves on disk for its next start and for readers while it does not run.

Two files in the state directory: `numbers.json`, the allocated numbers, written before any row
that uses them; and `state.json`, what the numbers in the maps mean, written after each change.
Called by the agent (writes), the command line and the metrics (read).
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pyagent.errors import SluiceError

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class WorkloadState:
    """One workload as it is in force. `interface` is the node side, `ifindex` its number."""

    key: str
    identity: int
    tenant: int
    interface: str
    ifindex: int
    netns: str | None
    addresses: tuple[str, ...]
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class NodeState:
    """The state in force. `problems` are the lines that refused the newest snapshot, if it was.

    Times are seconds since the epoch. `rules`, `identities` and `tenants` name the numbers that
    stand in the maps.
    """

    node: str
    version: str
    pid: int
    started: float
    applied: float = 0.0
    apply_seconds: float = 0.0
    counts: Mapping[str, int] = field(default_factory=dict)
    problems: tuple[str, ...] = ()
    rules: Mapping[int, str] = field(default_factory=dict)
    identities: Mapping[int, str] = field(default_factory=dict)
    tenants: Mapping[int, str] = field(default_factory=dict)
    workloads: tuple[WorkloadState, ...] = ()


def write_atomically(path: Path, text: str) -> None:
    """Replaces a file in one step, on disk before it is in place; mode 0600. SluiceError, and the
    old file stays, when it cannot be written: a disk may be full."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        raise SluiceError(f"{path}: cannot be written: {error.strerror}") from None


def left_unfinished(state_dir: Path) -> tuple[Path, ...]:
    """What `write_atomically` has left in a state directory when its process was killed."""
    return tuple(p for name in ("state", "numbers") for p in state_dir.glob(f".{name}.json.*"))


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except PermissionError:
        raise SluiceError(f"{path}: permission denied: run as root") from None
    except (OSError, ValueError) as error:
        raise SluiceError(f"{path}: cannot be read: {error}") from None


def state_path(state_dir: Path) -> Path:
    """Where `NodeState` is kept."""
    return state_dir / "state.json"


def write_state(state_dir: Path, state: NodeState) -> None:
    """Keeps `state` as the one in force. What is in force does not depend on it: where it cannot
    be written, that is logged, and readers see an older one."""
    try:
        write_atomically(state_path(state_dir), json.dumps(asdict(state)))
    except SluiceError as error:
        _log.error("%s", error)


def read_state(state_dir: Path) -> NodeState | None:
    """What the last agent left, or None when none has run; SluiceError when it is unreadable."""
    raw = _read_json(state_path(state_dir))
    if raw is None:
        return None
    try:
        for name in ("rules", "identities", "tenants"):
            raw[name] = {int(number): text for number, text in raw[name].items()}
        raw["problems"] = tuple(raw["problems"])
        raw["workloads"] = tuple(
            WorkloadState(**{**entry, "addresses": tuple(entry["addresses"])})
            for entry in raw["workloads"]
        )
        return NodeState(**raw)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise SluiceError(f"{state_path(state_dir)}: is not a state file: {error}") from None


def write_numbers(state_dir: Path, numbers: Mapping[str, Any]) -> None:
    """Keeps the allocated numbers (`compiler.Numbers.to_json`)."""
    write_atomically(state_dir / "numbers.json", json.dumps(numbers))


def read_numbers(state_dir: Path) -> Any:
    """What `write_numbers` kept, or None."""
    return _read_json(state_dir / "numbers.json")


def lock_path(run_dir: Path) -> Path:
    """The lock that a running agent holds."""
    return run_dir / "agent.lock"


def agent_pid(run_dir: Path) -> int | None:
    """The pid of the agent that holds the lock in `run_dir`, None when no agent runs.

    A lock file outlives its agent, and its pid may be another process's by then: the process must
    hold the lock. The lock itself is not tried, which could get in the way of an agent's start.
    """
    path = lock_path(run_dir)
    try:
        text, lock = path.read_text(), path.stat()
        pid = int(text)
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            if _is_file(descriptor, lock) and _holds_lock(pid, descriptor.name):
                return pid
    except PermissionError:
        raise SluiceError(f"{path}: permission denied: run as root") from None
    except (OSError, ValueError):
        return None  # no lock file, an unfinished one, or a process that has ended
    return None


def _is_file(descriptor: Path, wanted: os.stat_result) -> bool:
    try:
        return os.path.samestat(descriptor.stat(), wanted)
    except FileNotFoundError:
        return False  # closed meanwhile


def _holds_lock(pid: int, descriptor: str) -> bool:
    try:
        info = Path(f"/proc/{pid}/fdinfo/{descriptor}").read_text()
    except FileNotFoundError:
        return False
    return any(line.startswith("lock:") and "FLOCK" in line for line in info.splitlines())


def events_path(run_dir: Path) -> Path:
    """The unix socket on which a running agent tells flow events."""
    return run_dir / "events.sock"
