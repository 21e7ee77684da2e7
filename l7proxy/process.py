"""One Envoy: started, adopted, looked after, stopped. Used by `supervisor` and by clean-up.

Nothing here waits for a proxy without a bound. The supervisor decides when to start and restart.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import time
from pathlib import Path

from l7proxy import files, launch, procfs, record, status
from l7proxy.admin import Admin
from l7proxy.bootstrap import bootstrap
from l7proxy.clusters import clusters
from l7proxy.errors import ProxyFailure
from l7proxy.listeners import listeners
from l7proxy.procfs import Process
from l7proxy.record import Record
from l7proxy.spec import ADMIN_SOCKET, BOOTSTRAP_FILE, ProxySpec
from l7proxy.status import Health, ProxyStatus
from l7proxy.xds import version_of

DRAIN = 5.0
"""Seconds that requests get to finish before SIGTERM."""

GRACE = 2.0
"""Seconds between SIGTERM and SIGKILL."""

ACCESS_LOG_BYTES = 64 * 1024 * 1024
_PAUSE = 0.02


def spec_hash(spec: ProxySpec) -> str:
    """Digest of what only a restart can change; the rest reaches a running Envoy by its files."""
    fixed = (
        bootstrap(spec),
        spec.netns,
        spec.uid,
        spec.gid,
        spec.cgroup,
        os.path.realpath(spec.envoy),
        spec.concurrency,
    )
    return hashlib.sha256(json.dumps(fixed).encode()).hexdigest()[:16]


class Proxy:
    """One tenant's Envoy. It belongs to one thread at a time: the supervisor's, or its user's."""

    def __init__(self, spec: ProxySpec) -> None:
        """Nothing is touched until `start` or `adopt`."""
        self.spec = spec
        self._process: Process | None = None
        self._record: Record | None = None
        self._versions = ("", "")
        self._log_begins = 0

    @property
    def process(self) -> Process | None:
        """The process, once started or adopted, until `forget`."""
        return self._process

    @property
    def restarts(self) -> int:
        """How often it was started again since the first start."""
        return self._record.restarts if self._record else 0

    @property
    def admin(self) -> Admin:
        """The admin interface of the running process; ProxyFailure when there is none."""
        if self._process is None:
            raise ProxyFailure(f"the proxy of {self.spec.tenant} is not running")
        return Admin(self.spec.admin_path, self._process.pid)

    def start(self) -> None:
        """Write the configuration and start Envoy; it is not ready yet. ProxyFailure if refused."""
        spec = self.spec
        envoy = launch.check(spec)
        version = launch.version(envoy)
        self.forget()
        previous = self._record or record.read(spec.directory)
        files.make_directory(spec.directory, spec.uid, spec.gid)
        _end_strays(spec, envoy)
        files.write(spec.bootstrap_path, bootstrap(spec), spec.uid, spec.gid)
        self.apply()
        files.remove(spec.admin_path)
        arguments = launch.command(spec, envoy, launch.open_files())
        pid, self._log_begins = launch.spawn(arguments, spec.log_path)
        self._process = Process(pid)
        self._record = Record(
            tenant=spec.tenant,
            pid=pid,
            start_time=procfs.start_time(pid) or 0,
            envoy=envoy,
            envoy_version=version,
            spec_hash=spec_hash(spec),
            restarts=previous.restarts + 1 if previous else 0,
        )
        text = record.encode(self._record)
        files.write(record.path(spec.directory), text, spec.uid, spec.gid)

    def adopt(self) -> bool:
        """Take over the process that an earlier run started, if it is still that very one."""
        self.forget()
        note = record.read(self.spec.directory)
        process = record.process_of(note, self.spec.uid) if note else None
        if process is None:
            return False
        self._process, self._record = process, note
        self._versions = status.written_versions(self.spec.directory)
        return True

    def outdated(self) -> bool:
        """Whether the running process is not what a start now would give."""
        if self._process is None or self._record is None:
            return True
        if self._record.spec_hash != spec_hash(self.spec):
            return True
        try:
            its_own = Path(f"/proc/{self._process.pid}/ns/net").stat().st_ino
            return its_own != Path(self.spec.netns).stat().st_ino
        except OSError:
            return True

    def apply(self) -> None:
        """Bring the files that Envoy watches up to date. Unchanged ones are left alone.

        Clusters come before the listeners that name them.
        """
        spec = self.spec
        texts = (clusters(spec), listeners(spec))
        for path, text in zip((spec.clusters_path, spec.listeners_path), texts, strict=True):
            if files.read(path) != text:
                files.write(path, text, spec.uid, spec.gid)
        self._versions = (version_of(texts[1]), version_of(texts[0]))

    def check(self, health: Health) -> ProxyStatus:
        """The status that an answer of the admin socket amounts to."""
        process = self._process
        accepted = health.versions == self._versions
        return ProxyStatus(
            tenant=self.spec.tenant,
            pid=process.pid if process else None,
            ready=health.ready,
            connections=health.connections,
            memory=procfs.resident_bytes(process.pid) if process else None,
            restarts=self.restarts,
            config_accepted=accepted,
            error=None if accepted else status.refusal(self.spec.directory),
        )

    def unanswered(self, reason: str | None) -> ProxyStatus:
        """The status of a proxy that does not answer, or does not run."""
        process = self._process
        return ProxyStatus(
            tenant=self.spec.tenant,
            pid=process.pid if process else None,
            ready=False,
            connections=None,
            memory=procfs.resident_bytes(process.pid) if process else None,
            restarts=self.restarts,
            config_accepted=False,
            error=reason,
        )

    def status(self) -> ProxyStatus:
        """Ask now; takes as long as one exchange with the admin socket may."""
        process = self._process
        if process is None or not process.alive():
            return self.unanswered("the process is gone")
        try:
            return self.check(status.check(self.admin))
        except ProxyFailure as failure:
            return self.unanswered(str(failure))

    def wait_ready(self, timeout: float) -> None:
        """Return once it serves; ProxyFailure when it ends, refuses its listeners, or is late."""
        deadline = time.monotonic() + timeout
        while True:
            now = self.status()
            if now.ready:
                return
            process = self._process
            if process is None or process.wait(_PAUSE):
                raise ProxyFailure(self.cause_of_death())
            if now.connections is not None and self.stuck():
                raise ProxyFailure(f"the proxy of {self.spec.tenant} cannot listen: {now.error}")
            if time.monotonic() > deadline:
                raise ProxyFailure(f"the proxy of {self.spec.tenant} is not ready: {now.error}")

    def stuck(self) -> bool:
        """Whether Envoy refused its first configuration; without listeners it never serves."""
        return status.refused(self.spec.directory, self._log_begins)

    def cause_of_death(self) -> str:
        """One line on how the process ended, with the last line of its log."""
        how = self._process.ending() if self._process else "gone"
        words = status.last_words(self.spec.directory, self._log_begins)
        return f"the proxy of {self.spec.tenant} is gone ({how}){': ' + words if words else ''}"

    def set_log_aside(self) -> bool:
        """Begin a new access log when it has grown; Envoy must then be told to reopen it."""
        return files.set_aside(self.spec.access_log_path, ACCESS_LOG_BYTES)

    def forget(self) -> None:
        """Let go of the process: reap it if it has ended, leave it running if it has not."""
        if self._process is not None:
            self._process.close()
        self._process = None

    def kill(self) -> None:
        """End the process at once; it is of no use."""
        if self._process is not None:
            self._process.signal(signal.SIGKILL)
            self._process.wait(GRACE)

    def stop(self, drain: float = DRAIN) -> None:
        """End it for good: let requests finish for `drain` seconds, then terminate, then kill."""
        if self._process is None:
            self.adopt()
        if self._process is not None:
            _terminate(self._process, self.admin, drain)
        self.forget()
        _end_strays(self.spec, os.path.realpath(self.spec.envoy))
        _leave_nothing(self.spec.directory)


def stop_recorded(directory: str, drain: float = DRAIN) -> bool:
    """Stop the proxy that is recorded in a directory, whatever its spec was; whether one ran."""
    note = record.read(directory)
    process = None if note is None else record.process_of(note, os.lstat(directory).st_uid)
    if process is not None:
        _terminate(process, Admin(f"{directory}/{ADMIN_SOCKET}", process.pid), drain)
        process.close()
    _leave_nothing(directory)
    return process is not None


def _terminate(process: Process, admin: Admin, drain: float) -> None:
    """New requests are discouraged, running ones finish; then the process ends, willing or not."""
    deadline = time.monotonic() + drain
    try:
        if drain > 0:
            admin.get("/drain_listeners?graceful&skip_exit", "POST")
        while time.monotonic() < deadline and status.check(admin).busy:
            if process.wait(_PAUSE):
                break
    except ProxyFailure:
        pass  # one that does not answer has nothing to drain
    for number, patience in ((signal.SIGTERM, GRACE), (signal.SIGKILL, GRACE)):
        process.signal(number)
        if process.wait(patience):
            return
    raise ProxyFailure(f"process {process.pid} cannot be killed")


def _end_strays(spec: ProxySpec, envoy: str) -> None:
    """Kill what a run that died before it wrote its record has left behind.

    Nothing was ever handed to such a process, and it holds the listener's port.
    """
    for pid in procfs.with_argument(f"{spec.directory}/{BOOTSTRAP_FILE}"):
        try:
            process = Process(pid)
        except OSError:
            continue
        if procfs.owner(pid) == spec.uid and procfs.executable(pid) == envoy:
            process.signal(signal.SIGKILL)
            process.wait(GRACE)
        process.close()


def _leave_nothing(directory: str) -> None:
    for path in (record.path(directory), f"{directory}/{ADMIN_SOCKET}"):
        files.remove(path)
