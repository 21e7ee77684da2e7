"""What the agent's work costs at full size: one process that is the agent without its interfaces.

Called by `policy` as a process of its own, so that its memory is the agent's. Prints one JSON
object: seconds of each step, memory in MiB.
"""

from __future__ import annotations

import json
import queue
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from tests.bench import cluster
from tests.bench.agent import Agent

_CHANGES = 9  # at most, of each kind
_PATIENCE = 15.0  # seconds for the changes of one kind, after the first three
_QUIET = 0.1  # seconds without a notice after which none of an earlier change is to come


def _memory(name: str) -> float:
    """VmRSS or VmHWM in MiB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) / 1024
    raise LookupError(name)


def _put_in_force(agent: Agent) -> dict[str, float]:
    """From the files to the maps once; seconds of each step, and how many rows were written."""
    begun, cpu = time.perf_counter(), time.process_time()
    snapshot = agent.source.snapshot()
    read = time.perf_counter()
    agent.reconciler.put_in_force(snapshot)
    tables = agent.tables
    return {
        "read": read - begun,
        "compile": tables.began - read,
        "write": tables.ended - tables.began,
        "total": tables.ended - begun,
        "record": time.perf_counter() - tables.ended,
        "cpu": time.process_time() - cpu,
        "writes": tables.writes,
    }


def _change(agent: Agent, steps: list[Callable[[], object]]) -> list[dict[str, float]]:
    """Each step changes a file; seconds from then to the last map write."""
    notices: queue.SimpleQueue[None] = queue.SimpleQueue()
    stop = threading.Event()

    def watch() -> None:
        for _ in agent.source.changes(stop):
            notices.put(None)

    thread = threading.Thread(target=watch)
    thread.start()
    taken = []
    deadline = time.monotonic() + _PATIENCE
    for number, step in enumerate(steps):
        if number >= 3 and time.monotonic() > deadline:
            break
        _drain(notices)
        begun = time.perf_counter()
        step()
        notices.get(timeout=30)
        parts = _put_in_force(agent)
        assert parts["writes"], "the change has changed nothing"
        parts["total"] = agent.tables.ended - begun
        taken.append(parts)
    stop.set()
    thread.join(10)
    return taken


def _drain(notices: queue.SimpleQueue[None]) -> None:
    with suppress(queue.Empty):
        while True:
            notices.get(timeout=_QUIET)


def _replace(path: Path, old: str, new: str) -> Callable[[], object]:
    """Changes one file as an editor does: by rename. What can be prepared, is."""
    text = path.read_text()
    assert old in text
    temporary = path.with_name(f".{path.name}.new")
    temporary.write_text(text.replace(old, new, 1))
    return partial(temporary.replace, path)


def _label_steps(manifests: Path) -> list[Callable[[], object]]:
    """In each, one workload goes over to another app of its namespace."""
    steps = []
    for number in range(_CHANGES):
        labels = f"name: a0-0\n  namespace: n{number}\n  labels: {{app: a"
        path = manifests / f"workloads-{number}.yaml"
        steps.append(_replace(path, labels + "0", labels + "1"))
    return steps


def _rule_steps(manifests: Path) -> list[Callable[[], object]]:
    """In each, one policy admits one port more."""
    steps = []
    for number in range(_CHANGES):
        app = cluster.App(cluster.FULL, number, 3)
        old, new = cluster.policy_yaml(app), cluster.policy_yaml(app, (("TCP", 7000),))
        steps.append(_replace(manifests / f"policies-{number}.yaml", old, new))
    return steps


def main() -> None:
    """`python -m tests.bench.agent_cost STATE_DIR MANIFESTS [changes]`."""
    manifests = Path(sys.argv[2])
    agent = Agent(Path(sys.argv[1]), manifests, cluster.FULL)
    result: dict[str, Any] = {"load": agent.load_seconds, "cold": _put_in_force(agent)}
    result["rss"] = _memory("VmRSS")
    if "changes" in sys.argv[3:]:
        result["label"] = _change(agent, _label_steps(manifests))
        result["rule"] = _change(agent, _rule_steps(manifests))
    result["peak"] = _memory("VmHWM")
    agent.close()
    print(json.dumps(result))


if __name__ == "__main__":
    main()
