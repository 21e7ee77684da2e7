"""The agent's process: what it opens at its start, its threads, and how it ends.

`sluice agent` calls `run`. The source's watcher and the proxies' supervisor only put a word into
a queue; one thread, the caller's, does all the work. SIGTERM lets go of everything and takes
nothing away: the kernel goes on forwarding, the proxies go on serving.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import queue
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from enum import Enum
from importlib.metadata import version
from pathlib import Path

from pyagent import metrics
from pyagent.agent.reconciler import Reconciler
from pyagent.config import AgentConfig
from pyagent.errors import InvalidState, KernelError, SluiceError
from pyagent.events import EventServer
from pyagent.kernel import bpf, loader, pins, probe
from pyagent.kernel.netlink import Netlink
from pyagent.kernel.ringbuf import RingBuffer
from pyagent.kernel.tables import Tables
from pyagent.kernel.wiring import Wiring
from pyagent.proxies import PROXY_PORT, Proxies
from pyagent.sources.base import Source
from pyagent.sources.directory import DirectorySource
from pyagent.state import NodeState, left_unfinished, lock_path, read_state

_RESYNC = 10.0  # seconds between two looks at what nobody tells of

_log = logging.getLogger(__name__)


class _Word(Enum):
    """What the queue carries: why the loop wakes."""

    SOURCE = "source"
    PROXY = "proxy"
    STOP = "stop"


@contextmanager
def exclusive(config: AgentConfig) -> Iterator[None]:
    """Holds the agent's locks, with the pid in the run directory's; SluiceError when another agent
    has one of them. The state directory may be shared by mistake, hence two."""
    with ExitStack() as stack:
        path = lock_path(config.run_dir)
        running = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        stack.callback(os.close, running)
        if not _lock(running):
            pid = os.pread(running, 32, 0).decode().strip()
            raise SluiceError(f"an agent runs already with {config.run_dir} (pid {pid})")
        if config.state_dir.is_dir():
            state = os.open(config.state_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            stack.callback(os.close, state)
            if not _lock(state):
                raise SluiceError(f"an agent runs already with {config.state_dir}")
        os.ftruncate(running, 0)
        os.pwrite(running, f"{os.getpid()}\n".encode(), 0)
        yield


def _lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def make_directories(config: AgentConfig) -> None:
    """The state and run directories; proxies, which are no root, pass through the former."""
    for path, mode in ((config.state_dir, 0o711), (config.run_dir, 0o755)):
        try:
            path.mkdir(parents=True, exist_ok=True)
            path.chmod(mode)
        except OSError as error:
            raise SluiceError(f"{path}: cannot be made: {error.strerror}") from None


def cgroup_of(config: AgentConfig) -> Path:
    """The agent's cgroup v2 folder: the configured one, or one of its own below the mount."""
    if config.cgroup is not None:
        return config.cgroup
    tag = hashlib.sha256(str(config.state_dir.resolve()).encode()).hexdigest()[:8]
    return _cgroup_mount() / f"sluice-{tag}"


def _make_cgroup(config: AgentConfig) -> Path:
    folder = cgroup_of(config)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise KernelError(f"{folder}: the cgroup cannot be made: {error.strerror}") from None
    return folder


def _cgroup_mount() -> Path:
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, point, kind, *_ = line.split()
        if kind == "cgroup2":
            return Path(point)
    raise KernelError("no cgroup v2 is mounted: mount -t cgroup2 none /sys/fs/cgroup")


def _state_at_start(config: AgentConfig) -> NodeState:
    """What the last agent left, since its rows are in the kernel still, under this one's name."""
    own = NodeState(config.node, version("sluice"), os.getpid(), time.time())
    try:
        left = read_state(config.state_dir)
    except SluiceError as error:
        _log.warning("%s", error)
        left = None
    if left is None:
        return own
    return replace(
        left, node=own.node, version=own.version, pid=own.pid, started=own.started, problems=()
    )


class Agent:
    """One running agent; `loop` returns when `stop` was called."""

    def __init__(self, config: AgentConfig, source: Source) -> None:
        self._config = config
        self._source = source
        self._words: queue.SimpleQueue[_Word] = queue.SimpleQueue()
        self._stopping = threading.Event()
        self._metrics = metrics.Metrics(version("sluice"))
        self._reconciler: Reconciler | None = None
        self._state = _state_at_start(config)

    def run(self) -> None:
        """Starts, works until told to stop, and lets go."""
        with ExitStack() as stack:
            pin_folder = pins.mount(self._config.state_dir)
            programs = loader.load(pin_folder, self._config.map_sizes, PROXY_PORT)
            stack.callback(programs.close)
            tables = stack.enter_context(Tables(pin_folder, self._metrics.map_op))
            netlink = stack.enter_context(Netlink())
            proxies = Proxies(
                Wiring(self._config.state_dir),
                programs.fds,
                _make_cgroup(self._config),
                lambda _tenant, _ready: self._words.put(_Word.PROXY),
            )
            stack.callback(proxies.close)
            self._reconciler = Reconciler(
                self._config, netlink, programs.fds, tables, proxies, self._state
            )
            self._serve(stack, pin_folder)
            _log.info("programs %s", "compiled" if programs.compiled else "adopted")
            self._watch(stack)
            self._loop(self._reconciler, lambda: loader.drop_older(pin_folder, programs))

    def stop(self) -> None:
        """Makes `run` return; safe in a signal handler, which may interrupt itself, and from any
        thread: this queue's `put` is reentrant, an Event's `set` is not."""
        self._words.put(_Word.STOP)

    def _serve(self, stack: ExitStack, pin_folder: Path) -> None:
        """The event socket and the metrics endpoint."""
        ring = RingBuffer(bpf.open_pin(pin_folder / "events"))
        events = EventServer(ring, self._config.run_dir, self._current_state)
        stack.callback(events.close)
        if self._config.metrics_address is not None:
            collector = metrics.NodeCollector(pin_folder, self._current_state, self._metrics)
            stack.callback(metrics.serve(self._config.metrics_address, collector).close)

    def _current_state(self) -> NodeState:
        return self._reconciler.state if self._reconciler is not None else self._state

    def _watch(self, stack: ExitStack) -> None:
        thread = threading.Thread(target=self._watch_source, name="source", daemon=True)
        thread.start()
        stack.callback(thread.join, 2.0)
        stack.callback(self._stopping.set)  # called first

    def _watch_source(self) -> None:
        while not self._stopping.is_set():
            try:
                for _ in self._source.changes(self._stopping):
                    self._words.put(_Word.SOURCE)
            except SluiceError as error:
                _log.error("%s", error)
                self._stopping.wait(_RESYNC)
                self._words.put(_Word.SOURCE)

    def _loop(self, reconciler: Reconciler, settled: Callable[[], None]) -> None:
        """One word after another; what was said several times meanwhile is done once.

        `settled` is called when the first snapshot is in force. A snapshot that was refused is
        tried again with each look at the node, which may have got what was missing.
        """
        good = self._reconcile(reconciler)
        if good:
            settled()
        else:
            _guarded(reconciler.keep_proxies)
        look = time.monotonic() + _RESYNC
        while _Word.STOP not in (words := self._next_words(look - time.monotonic())):
            if _Word.SOURCE in words:
                good = self._reconcile(reconciler)
            elif _Word.PROXY in words:
                _guarded(reconciler.proxies_changed)
            if time.monotonic() >= look:
                good = good or self._reconcile(reconciler)
                _guarded(reconciler.resync)
                look = time.monotonic() + _RESYNC

    def _next_words(self, patience: float) -> set[_Word]:
        words: set[_Word] = set()
        with suppress(queue.Empty):
            words.add(self._words.get(timeout=max(patience, 0.0)))
            while True:
                words.add(self._words.get_nowait())
        return words

    def _reconcile(self, reconciler: Reconciler) -> bool:
        """Puts the source's snapshot in force; whether it could be."""
        begun = time.monotonic()
        try:
            reconciler.put_in_force(self._source.snapshot())
        except InvalidState as error:
            _refused(reconciler, tuple(str(problem) for problem in error.problems))
            return False
        except SluiceError as error:
            _refused(reconciler, (str(error),))
            return False
        seconds = time.monotonic() - begun
        self._metrics.observe_reconcile(seconds)
        _log.info("in force after %.0f ms", seconds * 1000)
        return True


def _refused(reconciler: Reconciler, lines: tuple[str, ...]) -> None:
    if lines != reconciler.state.problems:
        for line in lines:
            _log.error("refused, the last good state stays in force: %s", line)
    reconciler.record_problems(lines)


def _guarded(action: Callable[[], None]) -> None:
    try:
        action()
    except SluiceError as error:
        _log.error("%s", error)


def run(config: AgentConfig) -> None:
    """Runs the agent in the foreground until SIGTERM or SIGINT."""
    probe.require()
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    make_directories(config)
    with exclusive(config):
        for path in left_unfinished(config.state_dir):
            path.unlink()
        agent = Agent(config, DirectorySource(config.source_directory))
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: agent.stop())
        agent.run()
