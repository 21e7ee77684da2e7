"""The desired state as a watched directory of manifests (`AgentConfig.spec.source.directory`).

A change is noticed through inotify. What inotify on a directory cannot tell (that the directory
itself was replaced, or came back) is found by looking again a few times a second.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

from watchfiles._rust_notify import RustNotify  # documented as the library's low-level interface

from pyagent.errors import SluiceError
from pyagent.manifests import DirectoryReader
from pyagent.manifests.files import is_manifest_name, show
from pyagent.model import Snapshot

# Milliseconds. A burst ends when a step brings nothing new, or after the longest burst.
_STEP = 5
_LONGEST_BURST = 50
_LOOK_AGAIN = 250

# The folders being watched as (path, device, inode), so that a replaced one is told apart.
_Folders = frozenset[tuple[str, int, int]]


class DirectorySource:
    """A `Source` over one directory, which may be missing for a while."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._reader = DirectoryReader(path)
        self._was_read = False

    def snapshot(self) -> Snapshot:
        """The directory as it is now. Raises InvalidState.

        What has not changed since the last time is not parsed again, and is the same object.
        """
        self._was_read = True
        return self._reader.read()

    def changes(self, stop: threading.Event) -> Iterator[None]:
        """See `Source.changes`."""
        watch = _Watch(self._path)
        # What changed between a snapshot and the start of the watch has gone unseen.
        late, self._was_read = self._was_read, False
        return self._notices(watch, stop, late)

    def _notices(self, watch: _Watch, stop: threading.Event, late: bool) -> Iterator[None]:
        try:
            if late and not stop.is_set():
                yield
            while not stop.is_set():
                if watch.wait(stop):
                    yield
        finally:
            watch.close()


class _Watch:
    """Watches the directory and the folders that its links lead into."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._folders, self._notify = self._begin()

    def wait(self, stop: threading.Event) -> bool:
        """Wait for a burst of changes and its end; False after a while without, or on `stop`."""
        changed = False
        if self._notify is None:
            stop.wait(_LOOK_AGAIN / 1000)
        else:
            result = self._notify.watch(_LONGEST_BURST, _STEP, _LOOK_AGAIN, stop)
            if result == "signal":  # the library has swallowed the exception of Ctrl-C
                raise KeyboardInterrupt
            changed = isinstance(result, set)
        if stop.is_set():
            return False
        return self._follow() or changed

    def close(self) -> None:
        """Stop watching."""
        if self._notify is not None:
            self._notify.close()

    def _follow(self) -> bool:
        """Watch other folders if the directory or its links have moved; whether they have."""
        if _folders(self._path) == self._folders:
            return False
        old = self._notify
        self._folders, self._notify = self._begin()  # before the old one ends: no gap
        if old is not None:
            old.close()
        return True

    def _begin(self) -> tuple[_Folders, RustNotify | None]:
        # A folder replaced between the two lines is seen by the next `_follow`.
        folders = _folders(self._path)
        paths = sorted(path for path, _, _ in folders)
        if not paths:
            return folders, None
        try:
            return folders, RustNotify(paths, False, False, 0, False, True)
        except FileNotFoundError:
            return frozenset(), None
        except (OSError, ValueError) as error:
            raise SluiceError(
                f"cannot watch {show(self._path)}: {error}; see fs.inotify in sysctl"
            ) from error


def _folders(directory: Path) -> _Folders:
    """The directory and the folders of the files that its manifests link to; none if missing."""
    paths = {os.path.realpath(directory)}
    try:
        with os.scandir(directory) as entries:
            links = [e.path for e in entries if is_manifest_name(e.name) and e.is_symlink()]
        paths |= {os.path.dirname(os.path.realpath(link)) for link in links}  # noqa: PTH120
    except OSError:
        return frozenset()
    found = set()
    for path in paths:
        try:
            status = Path(path).stat()
        except OSError:
            continue  # where a link leads that is broken for now
        found.add((path, status.st_dev, status.st_ino))
    return frozenset(found)
