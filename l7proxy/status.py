"""How a proxy fares: what its admin socket says, put together with what the kernel knows.

`read_status` needs no supervisor, so that proxies can be listed while no agent runs.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from l7proxy import files, procfs, record
from l7proxy.admin import Admin, numbers_and_texts
from l7proxy.errors import ProxyFailure
from l7proxy.spec import ADMIN_SOCKET, CLUSTERS_FILE, LISTENERS_FILE, LOG
from l7proxy.untrusted import parse_json

READY = "/ready"
_LISTENING = "listener_manager.total_listeners_active"
_WORKERS = "listener_manager.workers_started"
_CONNECTIONS = "http.inbound.downstream_cx_active"
_REQUESTS = "http.inbound.downstream_rq_active"
_UNSENT = "http.inbound.downstream_cx_tx_bytes_buffered"
_LISTENERS_VERSION = "listener_manager.lds.version_text"
_CLUSTERS_VERSION = "cluster_manager.cds.version_text"
_NAMES = (
    _LISTENING,
    _WORKERS,
    _CONNECTIONS,
    _REQUESTS,
    _UNSENT,
    _LISTENERS_VERSION,
    _CLUSTERS_VERSION,
)
_FILTER = "^(" + "|".join(name.replace(".", "[.]") for name in _NAMES) + ")$"
STATS = "/stats?format=json&filter=" + quote(_FILTER, safe="")

_LISTENER_COUNT = 2
_REFUSAL = "Filesystem config update "  # Envoy's log; "rejected: " or "failure: " and why follow
_QUOTED_FILE = "): {"  # after the reason, Envoy quotes the file that it could not parse
_LONGEST = 400
_PREFIX = re.compile(r"^(\[[^]]*\])+ ")  # time, level and logger


@dataclass(frozen=True, slots=True)
class ProxyStatus:
    """One proxy at one moment.

    `ready`: it serves (its configuration may be an older one that it accepted). `connections` are
    clients', `memory` is in bytes, both None when unknown; `restarts` counts since the first
    start. `error` says why it isn't ready, or why its configuration was refused.
    """

    tenant: str
    pid: int | None
    ready: bool
    connections: int | None
    memory: int | None
    restarts: int
    config_accepted: bool
    error: str | None


@dataclass(frozen=True, slots=True)
class Health:
    """What the admin socket says.

    `connections` and `requests` are clients', running now; `unsent` counts bytes of answers that
    wait in Envoy. `versions` are of the listeners and clusters in force.
    """

    live: bool
    listening: bool
    connections: int
    requests: int
    unsent: int
    versions: tuple[str, str]

    @property
    def busy(self) -> bool:
        """Whether some client has not got its whole answer yet."""
        return self.requests > 0 or self.unsent > 0

    @property
    def ready(self) -> bool:
        """Envoy is live, and both listeners accept (they are more than merely warmed)."""
        return self.live and self.listening


def health_of(ready: str, stats: str) -> Health:
    """Read the answers to `READY` and `STATS`."""
    values = numbers_and_texts(stats)
    try:
        return Health(
            live=ready.strip() == "LIVE",
            listening=values[_LISTENING] == _LISTENER_COUNT and values[_WORKERS] == 1,
            connections=int(values.get(_CONNECTIONS, 0)),
            requests=int(values.get(_REQUESTS, 0)),
            unsent=int(values.get(_UNSENT, 0)),
            versions=(str(values[_LISTENERS_VERSION]), str(values[_CLUSTERS_VERSION])),
        )
    except (KeyError, ValueError) as error:
        raise ProxyFailure("Envoy's admin socket left out statistics") from error


def check(admin: Admin) -> Health:
    """Ask once, blocking; ProxyFailure when there is no answer in time."""
    return health_of(admin.get(READY), admin.get(STATS))


async def check_soon(admin: Admin) -> Health:
    """As `check`, under asyncio."""
    return health_of(await admin.fetch(READY), await admin.fetch(STATS))


def refusal(directory: str) -> str:
    """Why Envoy refused the newest configuration, in its own words, on one line."""
    text = files.read(f"{directory}/{LOG}") or ""
    for line in reversed(text.splitlines()):
        _, found, reason = line.partition(_REFUSAL)
        if found:
            return shorten(reason.partition(": ")[2].partition(_QUOTED_FILE)[0])
    return "Envoy has not accepted the configuration yet"


def refused(directory: str, start: int) -> bool:
    """Whether Envoy's log tells of a refused configuration from byte `start` on."""
    return _REFUSAL in (files.read(f"{directory}/{LOG}", start) or "")


def last_words(directory: str, start: int = 0) -> str | None:
    """The last line of Envoy's log from byte `start` on, without its time and level."""
    lines = [line for line in (files.read(f"{directory}/{LOG}", start) or "").splitlines() if line]
    return shorten(_PREFIX.sub("", lines[-1])) if lines else None


def shorten(reason: str) -> str:
    """One printable line. Envoy may quote a whole message first, so both ends are kept."""
    for escaped, plain in (("\\n", " "), ("\\'", "'"), ('\\"', '"')):
        reason = reason.replace(escaped, plain)
    line = " ".join("".join(c if c.isprintable() else " " for c in reason).split())
    if len(line) <= _LONGEST:
        return line
    return line[: _LONGEST // 2] + " ... " + line[-_LONGEST // 2 :]


def read_status(directory: str) -> ProxyStatus | None:
    """The status of the proxy that lives in this directory, None when none was ever recorded."""
    note = record.read(directory)
    if note is None:
        return None
    # The directory belongs to the proxy's user: what the record says of itself is not proof, and
    # the directory's name alone was not given by the proxy.
    tenant = Path(directory).name
    process = record.process_of(note, os.lstat(directory).st_uid)
    if process is None:
        return ProxyStatus(
            tenant, None, False, None, None, note.restarts, False, "the process is gone"
        )
    process.close()
    memory = procfs.resident_bytes(note.pid)
    try:
        health = check(Admin(f"{directory}/{ADMIN_SOCKET}", note.pid))
    except ProxyFailure as failure:
        return ProxyStatus(
            tenant, note.pid, False, None, memory, note.restarts, False, str(failure)
        )
    accepted = health.versions == written_versions(directory)
    return ProxyStatus(
        tenant=tenant,
        pid=note.pid,
        ready=health.ready,
        connections=health.connections,
        memory=memory,
        restarts=note.restarts,
        config_accepted=accepted,
        error=None if accepted else refusal(directory),
    )


def written_versions(directory: str) -> tuple[str, str]:
    """Versions of the listeners and clusters that Envoy was last given."""
    return (
        _version(files.read(f"{directory}/{LISTENERS_FILE}")),
        _version(files.read(f"{directory}/{CLUSTERS_FILE}")),
    )


def _version(text: str | None) -> str:
    try:
        version = parse_json(text or "")["versionInfo"]
    except (ValueError, KeyError, TypeError):
        return ""
    return version if isinstance(version, str) else ""
