"""Flow events: from the kernel's ring buffer to whoever listens on the agent's unix socket.

The agent owns an `EventServer`, the only reader of the ring; commands and the demo `subscribe`.
The stream is JSON lines: events as `FlowEvent.to_json` gives them, and {"lost": N} where N events
were left out because the subscriber was slow. The first line is {"lost": 0}: every event after
it is told or counted. What the ring itself had no room for is counted in the kernel (`stats`).
"""

from __future__ import annotations

import json
import logging
import os
import selectors
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pyagent.errors import SluiceError
from pyagent.flowevent import End, FlowEvent, Names, clock_offset, decode
from pyagent.kernel.ringbuf import RingBuffer
from pyagent.state import NodeState, events_path

__all__ = [
    "End",
    "EventServer",
    "FlowEvent",
    "Lost",
    "Names",
    "Subscription",
    "decode",
    "subscribe",
]

_log = logging.getLogger(__name__)

_MOST_PENDING = 1 << 20  # bytes kept for a subscriber that does not read
_MOST_SUBSCRIBERS = 64
_REST = 0.005  # seconds between two looks at the ring, so that a flood comes in batches
_BATCH = 512  # events decoded between two writes to the subscribers
_HELLO_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Lost:
    """So many events were left out here."""

    count: int


def _line(content: dict[str, Any]) -> bytes:
    return json.dumps(content, separators=(",", ":")).encode() + b"\n"


class _Subscriber:
    """One connected reader and what it has not taken yet."""

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        self.pending = bytearray(_line({"lost": 0}))
        self.lost = 0

    def offer(self, line: bytes) -> None:
        """Queues one event, or counts it as lost."""
        if len(self.pending) + len(line) > _MOST_PENDING:
            self.lost += 1
            return
        self.tell_lost()
        self.pending += line

    def tell_lost(self) -> None:
        """Queues how many were lost, if any, in the place where they are missing."""
        if self.lost:
            self.pending += _line({"lost": self.lost})
            self.lost = 0

    def flush(self) -> None:
        """Sends what goes without waiting; OSError when the reader is gone."""
        while self.pending:
            try:
                sent = self.socket.send(self.pending, socket.MSG_NOSIGNAL)
            except BlockingIOError:
                return
            del self.pending[:sent]
            if not self.pending:
                self.tell_lost()


class EventServer:
    """Drains the ring, and tells every subscriber what came, in one thread of its own.

    `ring` is the server's from the call on. `state` gives the state in force, whose names are
    used. The caller holds the agent's lock: a socket file that is there was left by a dead agent.
    """

    def __init__(self, ring: RingBuffer, run_dir: Path, state: Callable[[], NodeState]) -> None:
        self._ring = ring
        self._state = state
        self._names: tuple[NodeState, Names] | None = None
        self._subscribers: dict[int, _Subscriber] = {}
        self._path = events_path(run_dir)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            os.fchmod(self._listener.fileno(), 0o600)  # the file gets this mode from its birth
            self._path.unlink(missing_ok=True)
            self._listener.bind(str(self._path))
            self._listener.listen(16)
        except OSError as error:
            self._listener.close()
            ring.close()
            raise SluiceError(
                f"{self._path}: no socket can be made here: {error.strerror or error}"
            ) from None
        self._listener.setblocking(False)
        self._wake, self._woken = socket.socketpair()
        self._closing = threading.Event()
        self._selector = selectors.DefaultSelector()
        for source in (self._listener, self._woken, ring):
            self._selector.register(source, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._serve, name="events", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Ends the thread, disconnects every subscriber and closes the ring, within a second."""
        if self._closing.is_set():
            return
        self._closing.set()
        with suppress(OSError):  # it may have seen the event, and be gone
            self._wake.send(b"x")
        self._thread.join(1.0)
        self._wake.close()

    def _serve(self) -> None:
        try:
            while not self._closing.is_set():
                ready = {key.fileobj: events for key, events in self._selector.select()}
                # Subscribers come before the ring: who has connected misses nothing after it.
                if ready.pop(self._listener, 0):
                    self._accept()
                drained = ready.pop(self._ring, 0)
                for connection in ready:
                    if connection is not self._woken:
                        assert isinstance(connection, socket.socket)
                        self._attend(connection)
                if drained:
                    begun = time.monotonic()
                    self._drain()
                    # No flood of events may take more than half of a CPU from the agent.
                    self._closing.wait(max(_REST, time.monotonic() - begun))
        finally:
            self._release()

    def _release(self) -> None:
        with suppress(OSError):
            self._path.unlink(missing_ok=True)
        for subscriber in self._subscribers.values():
            subscriber.socket.close()
        self._selector.close()
        self._listener.close()
        self._woken.close()
        self._ring.close()

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except BlockingIOError:
            return
        except OSError as error:
            _log.warning("an event subscriber cannot be accepted: %s", error.strerror)
            self._closing.wait(0.1)  # out of descriptors: the connection stays, do not spin
            return
        if len(self._subscribers) >= _MOST_SUBSCRIBERS:
            connection.close()
            return
        connection.setblocking(False)
        self._selector.register(connection, selectors.EVENT_READ)
        subscriber = self._subscribers[connection.fileno()] = _Subscriber(connection)
        self._flush(subscriber)

    def _attend(self, connection: socket.socket) -> None:
        """A subscriber has room again, or is gone; what it may say is not listened to."""
        subscriber = self._subscribers[connection.fileno()]
        try:
            gone = connection.recv(4096) == b""
        except BlockingIOError:
            gone = False
        except OSError:
            gone = True
        if gone:
            self._drop(subscriber)
        else:
            self._flush(subscriber)

    def _flush(self, subscriber: _Subscriber) -> None:
        try:
            subscriber.flush()
        except OSError:
            self._drop(subscriber)
            return
        writing = selectors.EVENT_WRITE if subscriber.pending else 0
        self._selector.modify(subscriber.socket, selectors.EVENT_READ | writing)

    def _drop(self, subscriber: _Subscriber) -> None:
        del self._subscribers[subscriber.socket.fileno()]
        self._selector.unregister(subscriber.socket)
        subscriber.socket.close()

    def _drain(self) -> None:
        records = self._ring.poll(0)
        if not self._subscribers:
            return
        names = self._current_names()
        for start in range(0, len(records), _BATCH):
            for raw in records[start : start + _BATCH]:
                line = _line(decode(raw, names).to_json())
                for subscriber in self._subscribers.values():
                    subscriber.offer(line)
            for subscriber in tuple(self._subscribers.values()):
                self._flush(subscriber)

    def _current_names(self) -> Names:
        state = self._state()
        if self._names is None or self._names[0] is not state:
            self._names = (state, Names.of(state))
        return replace(self._names[1], offset=clock_offset())


class Subscription:
    """A connection to a running agent's events; iterate over it, or `receive` one by one.

    Iterating ends when `seconds` are over, the agent ends, or another thread calls `close`.
    """

    def __init__(self, run_dir: Path, seconds: float | None = None) -> None:
        path = events_path(run_dir)
        self._until = None if seconds is None else time.monotonic() + seconds
        self._lines: deque[bytes] = deque()
        self._rest = b""
        self.ended = False  # the agent has ended, or this was closed
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._socket.connect(str(path))
        except OSError as error:
            self._socket.close()
            missing = isinstance(error, (FileNotFoundError, ConnectionRefusedError))
            why = "no agent runs with this run directory" if missing else str(error)
            raise SluiceError(f"{path}: {why}") from None
        if self.receive(_HELLO_SECONDS) is None:
            self.close()
            raise SluiceError(f"{path}: the agent does not answer")

    def __enter__(self) -> Subscription:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[FlowEvent | Lost]:
        while True:
            left = None if self._until is None else self._until - time.monotonic()
            item = self.receive(left)
            if item is None:
                return
            yield item

    def receive(self, timeout: float | None = None) -> FlowEvent | Lost | None:
        """What comes next; None when nothing came within `timeout` seconds, or it has ended."""
        until = None if timeout is None else time.monotonic() + timeout
        while not self._lines:
            left = None if until is None else max(until - time.monotonic(), 0)
            if self.ended or not self._read(left):
                return None
        raw = json.loads(self._lines.popleft())
        return Lost(raw["lost"]) if "lost" in raw else FlowEvent.from_json(raw)

    def _read(self, timeout: float | None) -> bool:
        try:
            self._socket.settimeout(timeout)
            chunk = self._socket.recv(65_536)
        except (TimeoutError, BlockingIOError):
            return False
        except OSError:  # reset, or closed by another thread
            chunk = b""
        self.ended = not chunk
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        self._lines.extend(lines)
        return True

    def close(self) -> None:
        """Disconnects; who waits in another thread is told that it has ended."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


def subscribe(run_dir: Path, seconds: float | None = None) -> Subscription:
    """Events of the agent with this run directory, every one from now on, for at most `seconds`.

    SluiceError when no agent runs there.
    """
    return Subscription(run_dir, seconds)
