"""Reads a node's flow events as the agent does, so that they cost what they cost with it.

Started by `places` as a process of its own: `python -m tests.bench.event_reader STATE_DIR`.
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path

from pyagent.events import EventServer
from pyagent.kernel import bpf, pins
from pyagent.kernel.ringbuf import RingBuffer
from pyagent.state import NodeState


def main() -> None:
    """Until it is ended."""
    state_dir = Path(sys.argv[1])
    ring = RingBuffer(bpf.open_pin(pins.pin_directory(state_dir) / "events"))
    EventServer(ring, state_dir, lambda: NodeState("bench", "bench", 0, 0.0))
    print("ready", flush=True)
    signal.pause()


if __name__ == "__main__":
    main()
