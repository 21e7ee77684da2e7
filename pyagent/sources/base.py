"""What the agent asks of a source of desired state, whatever is behind it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Protocol

from pyagent.model import Snapshot


class Source(Protocol):
    """Complete snapshots, and notices that another one is to be had."""

    def snapshot(self) -> Snapshot:
        """The whole desired state as it is now. Raises InvalidState; a later call may succeed."""
        ...

    def changes(self, stop: threading.Event) -> Iterator[None]:
        """One notice for each burst of changes, until `stop` is set.

        Watching has begun when this returns. A change after a `snapshot` always brings a notice,
        also when it happens before this call or while the consumer is busy with an earlier
        notice; a notice may be superfluous. Raises SluiceError when watching is impossible.
        """
        ...
