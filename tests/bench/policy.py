"""Policy at scale: what 10,000 workloads with 1,000 policies cost, and a verdict beside others'.

Called by `run`. The agent's own work is done by `agent_cost`, the kernel's verdicts by `verdict`,
the traffic by `flood` in places that differ only in who filters.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from pyagent.kernel import pins
from tests.bench import cluster, places
from tests.bench.flood import Connections, Flood
from tests.bench.frames import Stream
from tests.bench.report import Report, compare, interleave, single
from tests.bench.verdict import Verdicts

NEEDS = {"nft": "nftables", "iptables-legacy-restore": "iptables", "ip": "iproute2"}

_SIZES = {"tiny": cluster.TINY, "small": cluster.SMALL, "full": cluster.FULL}
_COLD_STARTS = 3
_KNOWN = Stream(2000, 1000, cluster.UDP_PORT)
_NEW = Stream(4000, 20_000, cluster.UDP_PORT)
_DENIED = Stream(2000, 1000, 6000)
_PACKETS = 40_000
_CONNECTIONS = 1000

_ROOT = Path(__file__).parents[2]


def measure(report: Report) -> None:
    """All cases."""
    with ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="sluice-bench-"))
        stack.callback(shutil.rmtree, folder)
        manifests = {}
        for name, size in (
            ("tiny", cluster.TINY),
            ("small", cluster.SMALL),
            ("full", cluster.FULL),
        ):
            manifests[name] = folder / name
            manifests[name].mkdir()
            cluster.write(size, manifests[name])
        _agent(report, folder, manifests["full"])
        sluices = []
        for name, size in (
            ("tiny", cluster.TINY),
            ("small", cluster.SMALL),
            ("full", cluster.FULL),
        ):
            made = places.Sluice("", size, manifests[name])
            stack.callback(made.close)
            made.name = f"Sluice, {made.rows:,} rows"
            sluices.append(made)
        _verdicts(report, sluices)
        _traffic(report, sluices, stack)


# The agent


def _agent(report: Report, folder: Path, manifests: Path) -> None:
    runs = [_run_agent(folder / f"cold-{n}", manifests, n == 0) for n in range(_COLD_STARTS)]
    cold = [run["cold"] for run in runs]
    rows = f"{cold[0]['writes']:,.0f} rows of all maps"
    for step, what in (
        ("read", "read the manifests"),
        ("compile", "compile and plan"),
        ("write", f"write {rows}"),
        ("total", "all of it"),
    ):
        aim = "10 s" if step == "total" else ""
        report.add(single(f"cold start: {what}", "s", [one[step] for one in cold]), aim=aim)
    cpu = [one["cpu"] for one in cold]
    report.add(single("cold start: the agent's CPU time", "CPU s", cpu))
    report.add(single("cold start: programs compiled, loaded", "s", [run["load"] for run in runs]))
    rss = [run["rss"] for run in runs]
    report.add(single("memory of the agent after a cold start", "MiB", rss), aim="300 MiB")
    report.add(single("memory of the agent, its peak after changes", "MiB", [runs[0]["peak"]]))
    for kind in ("label", "rule"):
        changes = runs[0][kind]
        for step, what, unit in (
            ("total", "to the last map write", "ms"),
            ("cpu", "CPU", "CPU ms"),
        ):
            values = [one[step] * 1000 for one in changes]
            aim = "100 ms" if step == "total" else ""
            report.add(single(f"one {kind} change: {what}", unit, values), aim=aim)


def _run_agent(state_dir: Path, manifests: Path, changes: bool) -> dict[str, Any]:
    """One agent's life. Changes are made to a copy of the manifests."""
    state_dir.mkdir()
    command = [sys.executable, "-m", "tests.bench.agent_cost", str(state_dir), str(manifests)]
    if changes:
        copy = state_dir / "manifests"
        shutil.copytree(manifests, copy)
        command[-1:] = [str(copy), "changes"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=150, cwd=_ROOT)
    finally:
        pins.unmount(state_dir)
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result


# The kernel's verdicts


def _verdicts(report: Report, sluices: list[places.Sluice]) -> None:
    by_name = {place.name: Verdicts(place) for place in sluices}
    for what, run, aim in (
        ("known flow", Verdicts.known, ""),
        ("denied packet", Verdicts.denied, "1.25"),
        ("new flow", Verdicts.new, "1.25"),
        ("new flow anywhere", Verdicts.new_anywhere, "1.25"),
    ):
        found = interleave({name: partial(_ns, run, one) for name, one in by_name.items()})
        report.add(*compare(f"verdict, {what}", found, sluices[0].name), aim=aim)


def _ns(run: Callable[[Verdicts], float], verdicts: Verdicts) -> dict[str, float]:
    return {"ns/packet": run(verdicts)}


# Traffic, beside nftables and iptables


class _Filtered:
    """One place with what is to be sent there."""

    def __init__(self, place: places.Place, stack: ExitStack) -> None:
        self._place = place
        self._flood = Flood(place)
        stack.callback(self._flood.close)
        self._connections = Connections(place, cluster.TCP_PORT)
        stack.callback(self._connections.close)
        self._batches = {s: self._flood.batch(s, _PACKETS) for s in (_KNOWN, _NEW, _DENIED)}
        self._new = self._flood.batch(_NEW, _NEW.ports)

    def known(self) -> float:
        """Packets of a thousand flows that are known."""
        self._flood.establish(_KNOWN)
        return self._flood.rate(self._batches[_KNOWN], arrive=True)

    def new(self) -> float:
        """Packets that are each the first of a flow."""
        self._place.forget()
        return self._flood.rate(self._new, arrive=True)

    def denied(self) -> float:
        """Packets that policy denies; without a filter they arrive."""
        unfiltered = type(self._place) is places.Place
        return self._flood.rate(self._batches[_DENIED], arrive=unfiltered)

    def connections(self) -> float:
        """TCP connections, from the SYN to the last FIN."""
        self._place.forget()
        return self._connections.rate(_CONNECTIONS)


def _traffic(report: Report, sluices: list[places.Sluice], stack: ExitStack) -> None:
    small, full = sluices[0], sluices[-1]
    found: list[places.Place] = [places.Place("no filter", cluster.TINY)]
    stack.callback(found[0].close)
    found += [small, full]
    for make, kind in ((places.nftables, "nftables"), (places.iptables, "iptables")):
        for size, rows in ((cluster.TINY, small.rows), (cluster.FULL, full.rows)):
            place = make(f"{kind}, as {rows:,} rows", size)
            stack.callback(place.close)
            found.append(place)
    filtered = {place.name: _Filtered(place, stack) for place in found}
    for what, unit, run in (
        ("known flows", "packets/CPU s", _Filtered.known),
        ("new flows", "packets/CPU s", _Filtered.new),
        ("denied", "packets/CPU s", _Filtered.denied),
        ("TCP connections", "connections/CPU s", _Filtered.connections),
    ):
        subjects = {name: partial(_rate, unit, run, one) for name, one in filtered.items()}
        report.add(*compare(what, interleave(subjects), "no filter"))
    report.note(
        "nftables and iptables-legacy hold the IPv4 half of the rules and report nothing they "
        "drop; Sluice tells every new flow and every drop in an event, which a process reads"
    )


def _rate(unit: str, run: Callable[[_Filtered], float], filtered: _Filtered) -> dict[str, float]:
    return {unit: run(filtered)}
