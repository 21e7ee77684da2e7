"""Keeping the proxies alive: one thread that watches every one, and tells when it can serve.

Made by the agent. Readiness goes to a callback, which runs in a thread of its own and in order,
so that whatever it waits for delays no watching. Errors of a proxy stay with that proxy.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar

from l7proxy import backoff, launch, status
from l7proxy.errors import ProxyFailure
from l7proxy.process import DRAIN, Proxy
from l7proxy.spec import ProxySpec
from l7proxy.status import ProxyStatus
from l7proxy.texts import spec_hash

OnChange = Callable[[str, bool], None]
Result = TypeVar("Result")

CHECK_INTERVAL = 0.5
"""Seconds between two looks at a proxy that serves; with the admin timeout, 1.5 s to notice."""

START_INTERVAL = 0.02
START_LIMIT = 15.0
"""Seconds after which an Envoy that still doesn't serve is started anew."""

_log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class _Kept:
    """One proxy under supervision. Changed by the supervisor's thread only."""

    proxy: Proxy
    status: ProxyStatus
    known: bool = False  # not while an adopted process has yet to be asked
    ready: bool = False
    ready_since: float = 0.0  # monotonic
    serving: float = 0.0  # seconds of readiness in this life
    gone: bool = False  # no more callbacks
    task: asyncio.Task[None] | None = field(default=None)


class Supervisor:
    """Runs one proxy for each tenant that it was given. Thread-safe.

    `on_change(tenant, ready)` is called at each change, starting from not ready, and when it
    turns out that an adopted proxy is not.
    """

    def __init__(self, on_change: OnChange) -> None:
        """Start the two threads; nothing is watched yet."""
        self._on_change = on_change
        self._changes: queue.SimpleQueue[tuple[_Kept, bool] | None] = queue.SimpleQueue()
        self._kept: dict[str, _Kept] = {}
        self._news = threading.Condition()
        self._closed = False
        self._changing = asyncio.Lock()  # one tenant at a time comes or goes
        self._loop = asyncio.new_event_loop()
        self._watcher = threading.Thread(
            target=self._loop.run_forever, name="proxy-supervisor", daemon=True
        )
        self._teller = threading.Thread(target=self._tell, name="proxy-changes", daemon=True)
        self._watcher.start()
        self._teller.start()

    def ensure(self, spec: ProxySpec) -> None:
        """Have this proxy running: adopt it, start it, or change it. Does not wait for readiness,
        but whether there was one to adopt shows in `readiness` from now on.

        A change that a running Envoy can take leaves its process and connections alone; any other
        ends the old process first. ProxyFailure when the spec cannot work; nothing changes then.
        """
        launch.check(spec)
        self._run(self._ensure(spec))

    def remove(
        self, tenant: str, drain: float = DRAIN, hurry: threading.Event | None = None
    ) -> bool:
        """Stop a tenant's proxy; returns when its process is gone. No callback comes any more.

        `hurry`, once set, ends the draining. False when there is no such proxy here.
        """
        kept = self._run(self._give_up(tenant))
        if kept is not None:
            kept.proxy.stop(drain, hurry)
        return kept is not None

    def list(self) -> tuple[ProxyStatus, ...]:
        """How every proxy fared when it was last looked at, by tenant."""
        return tuple(kept.status for _, kept in sorted(self._kept.copy().items()))

    def readiness(self) -> dict[str, bool]:
        """Whether each proxy serves, by tenant; one that was adopted and has yet to answer for the
        first time is left out."""
        return {name: kept.ready for name, kept in self._kept.copy().items() if kept.known}

    def wait_until(self, condition: Callable[[], bool], timeout: float) -> bool:
        """Wait for a condition on what the other methods tell; whether it has come."""
        with self._news:
            return self._news.wait_for(condition, timeout)

    def wait_ready(self, tenant: str, timeout: float) -> None:
        """Return once the proxy serves; ProxyFailure, saying why not, when it is late."""
        if self.wait_until(lambda: self._is_ready(tenant), timeout):
            return
        kept = self._kept.get(tenant)
        why = (kept.status.error if kept else None) or "it does not serve yet"
        raise ProxyFailure(f"the proxy of {tenant} is not ready: {why}")

    def close(self, leave_running: bool = True) -> None:
        """Stop watching. The proxies go on without a supervisor, or are stopped all at once."""
        if self._closed:
            return
        self._closed = True
        everyone = self._submit(self._detach_all())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._watcher.join()
        self._loop.close()
        self._changes.put(None)
        if threading.current_thread() is not self._teller:
            self._teller.join()
        proxies = [kept.proxy for kept in everyone]
        if leave_running:
            for proxy in proxies:
                proxy.forget()
        elif proxies:
            with concurrent.futures.ThreadPoolExecutor(min(32, len(proxies))) as pool:
                concurrent.futures.wait([pool.submit(proxy.stop) for proxy in proxies])

    def _run(self, work: Coroutine[Any, Any, Result]) -> Result:
        if self._closed:
            work.close()
            raise ProxyFailure("the supervisor is closed")
        return self._submit(work)

    def _submit(self, work: Coroutine[Any, Any, Result]) -> Result:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def _is_ready(self, tenant: str) -> bool:
        kept = self._kept.get(tenant)
        return kept is not None and kept.ready

    def _tell(self) -> None:
        while (change := self._changes.get()) is not None:
            kept, ready = change
            if not kept.gone:
                try:
                    self._on_change(kept.proxy.spec.tenant, ready)
                except Exception:
                    _log.exception("a change of readiness could not be handled")

    async def _ensure(self, spec: ProxySpec) -> None:
        async with self._changing:
            await self._bring_about(spec)

    async def _bring_about(self, spec: ProxySpec) -> None:
        old = self._kept.get(spec.tenant)
        if old is not None and old.proxy.spec == spec:
            return
        if old is not None and spec_hash(old.proxy.spec) == spec_hash(spec):
            old.proxy.spec = spec
            old.proxy.apply()
            return
        if old is not None:
            await self._detach(spec.tenant)
        proxy = Proxy(spec)
        found = old is None and proxy.adopt()
        kept = _Kept(proxy, proxy.unanswered("not asked yet" if found else "not started yet"))
        kept.known = not found
        self._kept[spec.tenant] = kept
        if old is not None and old.ready:
            self._changes.put((kept, False))
        kept.task = self._loop.create_task(self._keep(kept, old.proxy if old else None))

    async def _give_up(self, tenant: str) -> _Kept | None:
        async with self._changing:
            return await self._detach(tenant)

    async def _detach(self, tenant: str) -> _Kept | None:
        """Take a proxy out of supervision, its process untouched."""
        kept = self._kept.pop(tenant, None)
        if kept is not None and kept.task is not None:
            kept.gone = True
            kept.task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await kept.task
        return kept

    async def _detach_all(self) -> tuple[_Kept, ...]:
        detached = [await self._give_up(tenant) for tenant in tuple(self._kept)]
        return tuple(kept for kept in detached if kept is not None)

    async def _keep(self, kept: _Kept, predecessor: Proxy | None) -> None:
        """Run one proxy for as long as it is wanted."""
        failures = 0
        proxy = kept.proxy
        if predecessor is not None:
            await self._end(predecessor)
        running = await self._take_over(proxy)
        if not running:
            self._note(kept, proxy.unanswered("not started yet"))
        while True:
            kept.serving = 0.0
            reason = await self._live(kept, running)
            running = False
            self._note(kept, proxy.unanswered(reason))
            proxy.forget()
            _log.warning("%s", reason)
            failures = backoff.failures_after(failures, kept.serving)
            await asyncio.sleep(backoff.delay(failures, kept.serving))

    async def _take_over(self, proxy: Proxy) -> bool:
        """Go on with what runs already, unless only another process can be what is wanted now."""
        if proxy.process is None and not proxy.adopt():
            return False
        if proxy.outdated():
            await self._end(proxy)
            return False
        try:
            proxy.apply()
        except ProxyFailure as failure:
            _log.warning("%s", failure)
        return True

    async def _end(self, proxy: Proxy) -> None:
        try:
            await asyncio.to_thread(proxy.stop)
        except ProxyFailure as failure:
            _log.warning("%s", failure)

    async def _live(self, kept: _Kept, running: bool) -> str:
        """One life of a process, from its start unless it runs already; what ended it."""
        proxy = kept.proxy
        try:
            if not running:
                proxy.start()
            await self._watch(kept, started=not running)
            return proxy.cause_of_death()
        except ProxyFailure as failure:
            reason = str(failure)
        except Exception as error:
            _log.exception("the proxy of %s could not be looked after", proxy.spec.tenant)
            reason = f"the proxy of {proxy.spec.tenant} could not be looked after: {error}"
        await asyncio.to_thread(proxy.kill)
        return reason

    async def _watch(self, kept: _Kept, started: bool) -> None:
        """Look after a running process until it has ended; ProxyFailure if it cannot serve."""
        process = kept.proxy.process
        assert process is not None
        ended = asyncio.Event()

        def on_end() -> None:
            self._loop.remove_reader(process.pidfd)
            self._set_ready(kept, False)  # before anything else
            ended.set()

        self._loop.add_reader(process.pidfd, on_end)
        looking = self._loop.create_task(self._look(kept, started))
        ending = self._loop.create_task(ended.wait())
        try:
            done, _ = await asyncio.wait({looking, ending}, return_when="FIRST_COMPLETED")
            if looking in done:
                looking.result()
        finally:
            self._loop.remove_reader(process.pidfd)
            for task in (looking, ending):
                task.cancel()
            await asyncio.gather(looking, ending, return_exceptions=True)

    async def _look(self, kept: _Kept, started: bool) -> None:
        """Ask again and again how the proxy fares; ProxyFailure when a new one never will serve."""
        proxy = kept.proxy
        limit = time.monotonic() + START_LIMIT
        while True:
            try:
                now = proxy.check(await status.check_soon(proxy.admin))
                if now.ready and proxy.set_log_aside():
                    await proxy.admin.fetch("/reopen_logs", "POST")
            except ProxyFailure as failure:
                now = proxy.unanswered(str(failure))
            if proxy.process is None or not proxy.process.alive():
                return  # an answer from a process that has ended since counts for nothing
            self._note(kept, now)
            started = started and not now.ready
            refused = started and now.connections is not None and proxy.stuck()
            if refused or (started and time.monotonic() > limit):
                raise ProxyFailure(f"the proxy of {now.tenant} cannot serve: {now.error}")
            await asyncio.sleep(START_INTERVAL if started else CHECK_INTERVAL)

    def _note(self, kept: _Kept, now: ProxyStatus) -> None:
        kept.status = now
        self._set_ready(kept, now.ready)

    def _set_ready(self, kept: _Kept, ready: bool) -> None:
        if ready == kept.ready and kept.known:
            return
        if ready:
            kept.ready_since = time.monotonic()
        elif kept.ready:
            kept.serving += time.monotonic() - kept.ready_since
        with self._news:
            kept.ready, kept.known = ready, True
            self._news.notify_all()
        self._changes.put((kept, ready))
