"""The note that lets another run of the agent find a proxy again.

Written by `process` after each start, read by `process` (adoption) and `status`.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields

from l7proxy import files, procfs
from l7proxy.procfs import Process
from l7proxy.untrusted import parse_json

_LARGEST_PID = 2**31 - 1  # pid_t
_LARGEST = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Record:
    """Which process it is, and what it was started as.

    `start_time` is in clock ticks since boot; `envoy` is the binary's real path; `spec_hash`
    covers what only a restart can change, `fingerprint` everything, the watched files included;
    `restarts` counts the starts after the first.
    """

    tenant: str
    pid: int
    start_time: int
    envoy: str
    envoy_version: str
    spec_hash: str
    fingerprint: str
    restarts: int = 0


def path(directory: str) -> str:
    """Where a proxy's record is."""
    return f"{directory}/proxy.json"


def encode(record: Record) -> str:
    """The record as the file holds it."""
    return json.dumps(asdict(record), indent=1) + "\n"


def decode(text: str) -> Record | None:
    """Read a record; None when the text is not one, whatever else it may be."""
    try:
        values = parse_json(text)
    except ValueError:
        return None
    if not isinstance(values, dict) or set(values) != {field.name for field in fields(Record)}:
        return None
    numbers = ("pid", "start_time", "restarts")
    for name, value in values.items():
        if type(value) is not (int if name in numbers else str):
            return None
    if not all(0 <= values[name] <= _LARGEST for name in numbers):
        return None
    return Record(**values) if 0 < values["pid"] <= _LARGEST_PID else None


def read(directory: str) -> Record | None:
    """The record in a proxy's directory, if there is a sound one."""
    text = files.read(path(directory))
    return None if text is None else decode(text)


def process_of(record: Record, uid: int) -> Process | None:
    """The very process that the record speaks of, None when it is gone.

    Pid, start time, binary and user must all agree. The file is in the proxy's hands, `uid` is
    not: a forged record can name no process but that user's own.
    """
    try:
        process = Process(record.pid)
    except OSError:
        return None
    # The process is held before it is looked at: its number cannot change hands in between.
    agrees = (
        procfs.start_time(record.pid) == record.start_time
        and procfs.executable(record.pid) == record.envoy
        and procfs.owner(record.pid) == uid
        and process.alive()
    )
    if agrees:
        return process
    process.close()
    return None
