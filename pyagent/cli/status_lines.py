"""`sluice status` for people: one line for each thing, its name first."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any

_UNITS = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))
_WIDTH = 14


def lines_of(facts: Mapping[str, Any]) -> Iterator[str]:
    """The lines; `facts` are those of `status`."""
    yield from _agent(facts)
    if facts["in_force"] is not None:
        yield from _in_force(facts["in_force"])
    if facts["kernel"] is None:
        yield _line("kernel", "no maps can be read here")
    else:
        yield from _kernel(facts["kernel"])


def _agent(facts: Mapping[str, Any]) -> Iterator[str]:
    agent, state = facts["agent"], facts["in_force"]
    if state is not None:
        yield _line("node", state["node"])
    if agent["running"]:
        since = f", since {_when(state['agent_started'])}" if state else ""
        yield _line("agent", f"running, pid {agent['pid']}{since}")
    else:
        goes_on = ": the kernel goes on with what is in force" if facts["kernel"] else ""
        yield _line("agent", f"not running{goes_on}")
    if state is not None:
        yield _line("version", state["version"])


def _in_force(state: Mapping[str, Any]) -> Iterator[str]:
    if state["applied"] is None:
        yield _line("last apply", "none yet")
    else:
        took = f"in {1000 * state['apply_seconds']:.0f} ms"
        yield _line("last apply", f"{_when(state['applied'])}, {took}")
        counts = (f"{kind} {number}" for kind, number in state["counts"].items())
        yield _line("objects", ", ".join(counts))
    for problem in state["problems"]:
        yield _line("refused", " ".join(problem.split()))


def _kernel(kernel: Mapping[str, Any]) -> Iterator[str]:
    yield _line("policy", f"revision {kernel['policy_revision']}")
    yield _line("flows", str(kernel["flows"]))
    yield _line("forwarded", _traffic(kernel["forwarded"]))
    dropped = kernel["dropped"]
    yield _line("dropped", _traffic(dropped))
    for reason, sums in dropped["by_reason"].items():
        yield _line("", f"{reason}: {_traffic(sums)}")
    yield _line("events lost", str(kernel["events_lost"]))
    for name, number in kernel["stats"].items():
        if name != "events_lost" and number:
            yield _line(name.replace("_", " "), str(number))
    for full in kernel["pressure"]:
        use = f"{full['entries']} of {full['capacity']} entries, {full['percent']} %"
        yield _line("map pressure", f"{full['map']}: {use}")
    for proxy in kernel["proxies"]:
        name = proxy["tenant"] or f"tenant {proxy['number']}"
        ready = "ready" if proxy["ready"] else "not ready"
        shown = f"{ready}, failure mode {proxy['failure_mode']}"
        yield _line("proxy", f"{name}: {shown if proxy['interface'] else 'none'}")


def _line(name: str, text: str) -> str:
    return f"{name:{_WIDTH}}{text}"


def _traffic(sums: Mapping[str, Any]) -> str:
    return f"{sums['packets']} packets, {_bytes(sums['bytes'])}"


def _bytes(number: float) -> str:
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if number < 1024:
            return f"{number:.0f} {unit}" if unit == "bytes" else f"{number:.1f} {unit}"
        number /= 1024
    return f"{number:.1f} TiB"


def _when(seconds: float) -> str:
    """A time, and how long ago that was, in its largest unit."""
    ago = max(time.time() - seconds, 0.0)
    size, unit = next((pair for pair in _UNITS if ago >= pair[0]), _UNITS[-1])
    shown = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
    return f"{shown} ({ago / size:.0f} {unit} ago)"
