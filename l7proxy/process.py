"""One Envoy: started, adopted, looked after, stopped. Used by `supervisor` and by clean-up.

Nothing here waits for a proxy without a bound. The supervisor decides when to start and restart.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path

from l7proxy import files, launch, procfs, record, status
from l7proxy.admin import Admin
from l7proxy.errors import ProxyFailure
from l7proxy.procfs import Process
from l7proxy.record import Record
from l7proxy.spec import ADMIN_SOCKET, BOOTSTRAP_FILE, ProxySpec
from l7proxy.status import Health, ProxyStatus
from l7proxy.texts import fingerprint, spec_hash, texts

DRAIN = 5.0
"""Seconds that requests get to finish before SIGTERM."""

GRACE = 2.0
"""Seconds between SIGTERM and SIGKILL."""

ACCESS_LOG_BYTES = 64 * 1024 * 1024
LOG_BYTES = 16 * 1024 * 1024
_PAUSE = 0.02


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
        files.write(spec.bootstrap_path, texts(spec).bootstrap, spec.uid, spec.gid)
        self._write_watched()
        files.remove(spec.admin_path)
        arguments = launch.command(spec, envoy, launch.open_files())
        pid, self._log_begins = launch.spawn(arguments, spec.log_path)
        self._process = Process(pid)
        self._keep(
            Record(
                tenant=spec.tenant,
                pid=pid,
                start_time=procfs.start_time(pid) or 0,
                envoy=envoy,
                envoy_version=version,
                spec_hash=spec_hash(spec),
                fingerprint=fingerprint(spec),
                restarts=previous.restarts + 1 if previous else 0,
            )
        )

    def _keep(self, note: Record) -> None:
        """Leave the note for another run of the agent."""
        self._record = note
        path = record.path(self.spec.directory)
        files.write(path, record.encode(note), self.spec.uid, self.spec.gid)

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
        if not self._as_built() and self._record.spec_hash != spec_hash(self.spec):
            return True
        try:
            its_own = Path(f"/proc/{self._process.pid}/ns/net").stat().st_ino
            return its_own != Path(self.spec.netns).stat().st_ino
        except OSError:
            return True

    def _as_built(self) -> bool:
        """Whether the files are those that would be built now."""
        return self._record is not None and self._record.fingerprint == fingerprint(self.spec)

    def apply(self) -> None:
        """Bring the files that the running Envoy watches up to date."""
        if self._as_built() or self._record is None:
            return
        # Whoever dies in between leaves no note that vouches for files of another spec.
        self._keep(replace(self._record, fingerprint=""))
        self._write_watched()
        self._keep(replace(self._record, fingerprint=fingerprint(self.spec)))

    def _write_watched(self) -> None:
        """Unchanged files are left alone. Clusters come before the listeners that name them."""
        spec, built = self.spec, texts(self.spec)
        wanted = ((spec.clusters_path, built.clusters), (spec.listeners_path, built.listeners))
        for path, text in wanted:
            if files.read(path) != text:
                files.write(path, text, spec.uid, spec.gid)
        self._versions = built.versions

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
        """Keep the logs of a proxy that serves from growing; whether Envoy has to be told to
        reopen its access log, since that has been set aside, now or before."""
        if files.empty(self.spec.log_path, LOG_BYTES):
            self._log_begins = 0
        files.set_aside(self.spec.access_log_path, ACCESS_LOG_BYTES)
        return not os.path.lexists(self.spec.access_log_path)

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

    def stop(self, drain: float = DRAIN, hurry: threading.Event | None = None) -> None:
        """End it for good: let requests finish for `drain` seconds, then terminate, then kill.

        `hurry`, once set, ends the draining.
        """
        if self._process is None:
            self.adopt()
        if self._process is not None:
            _terminate(self._process, self.admin, drain, hurry or threading.Event())
        self.forget()
        _end_strays(self.spec, os.path.realpath(self.spec.envoy))
        _leave_nothing(self.spec.directory)


def stop_recorded(directory: str, drain: float = DRAIN) -> bool:
    """Stop the proxy that is recorded in a directory, whatever its spec was; whether one ran."""
    note = record.read(directory)
    process = None if note is None else record.process_of(note, os.lstat(directory).st_uid)
    if process is not None:
        admin = Admin(f"{directory}/{ADMIN_SOCKET}", process.pid)
        _terminate(process, admin, drain, threading.Event())
        process.close()
    _leave_nothing(directory)
    return process is not None


def _terminate(process: Process, admin: Admin, drain: float, hurry: threading.Event) -> None:
    """New requests are discouraged, running ones finish; then the process ends, willing or not."""
    deadline = time.monotonic() + drain
    try:
        if drain > 0:
            admin.get("/drain_listeners?graceful&skip_exit", "POST")
        while time.monotonic() < deadline and not hurry.is_set() and status.check(admin).busy:
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
