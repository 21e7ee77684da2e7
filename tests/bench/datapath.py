"""What the datapath costs applications: veth and routes alone, beside the same with Sluice.

Called by `run`. A small HTTP/2 server and h2load, iperf3, and plain TCP connections, in two places
that differ in the programs on the workloads' interfaces and in nothing else. Where two processes
take part on two cores, their CPU time is told beside the rate: on a machine that does other things
meanwhile, that is the surer of the two.
"""

from __future__ import annotations

import json
import os
import re
import resource
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from subprocess import DEVNULL, Popen

from tests.bench import cluster, places
from tests.bench.flood import Connections
from tests.bench.places import Place
from tests.bench.report import Report, compare, interleave
from tests.netns.node import wait_for

NEEDS = {
    "h2load": "nghttp2-client",
    "nghttpd": "nghttp2-server",
    "iperf3": "iperf3",
    "ss": "iproute2",
}

_PORT = cluster.TCP_PORT  # which policy admits; the servers take turns
_SECONDS = 2
_CONNECTIONS = 1500
_PLAIN = "veth alone"


def measure(report: Report) -> None:
    """All cases."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sluice-bench-")))
        cluster.write(cluster.SMALL, folder)
        (folder / "index").write_text("x" * 64)
        plain = places.Place(_PLAIN, cluster.SMALL)
        stack.callback(plain.close)
        sluice = places.Sluice("Sluice", cluster.SMALL, folder)
        stack.callback(sluice.close)
        sluice.name = f"Sluice, {sluice.rows} rows"
        both = {place.name: place for place in (plain, sluice)}
        _requests(report, both, folder)
        _streams(report, both)
        _connections(report, both)


def _requests(report: Report, both: Mapping[str, Place], documents: Path) -> None:
    with ExitStack() as stack:
        command = f"nghttpd --no-tls -a {{}} -d {documents} {_PORT}"
        servers = {n: stack.enter_context(_serving(both[n], command)) for n in both}
        for clients in (1, 32):
            subjects = {n: partial(_request, both[n], servers[n], clients) for n in both}
            what = f"HTTP requests, {clients} connection" + "s" * (clients > 1)
            report.add(*compare(what, interleave(subjects), _PLAIN))


def _request(place: Place, server: int, clients: int) -> dict[str, float]:
    """One request at a time on each client's connection."""
    url = f"http://{place.server_address}:{_PORT}/index"
    command = f"h2load -t1 -c{clients} -m1 -D{_SECONDS} {url}"
    output, cpu = _measure(place, server, command)
    found = re.search(r"(\d+) succeeded, 0 failed, 0 errored", output)
    assert found, output
    count = int(found[1])
    return {"requests/s": count / _SECONDS, "requests/CPU s": count / cpu}


def _streams(report: Report, both: Mapping[str, Place]) -> None:
    with ExitStack() as stack:
        command = f"iperf3 -s -B {{}} -p {_PORT}"
        servers = {n: stack.enter_context(_serving(both[n], command)) for n in both}
        subjects = {n: partial(_stream, both[n], servers[n]) for n in both}
        report.add(*compare("TCP_STREAM", interleave(subjects), _PLAIN))


def _stream(place: Place, server: int) -> dict[str, float]:
    """As much as goes through one connection."""
    command = f"iperf3 -c {place.server_address} -p {_PORT} -t {_SECONDS} -J"
    output, cpu = _measure(place, server, command)
    received = json.loads(output)["end"]["sum_received"]
    return {
        "Gbit/s": received["bits_per_second"] * 1e-9,
        "Gbit/CPU s": received["bytes"] * 8e-9 / cpu,
    }


def _connections(report: Report, both: Mapping[str, Place]) -> None:
    with ExitStack() as stack:
        subjects = {}
        for name, place in both.items():
            connections = Connections(place, _PORT)
            stack.callback(connections.close)
            subjects[name] = partial(_connect, connections)
        report.add(*compare("TCP connections", interleave(subjects), _PLAIN))


def _connect(connections: Connections) -> dict[str, float]:
    """From the SYN to the last FIN, both ends on one core."""
    return {"connections/CPU s": connections.rate(_CONNECTIONS)}


# Servers and CPU time


@contextmanager
def _serving(place: Place, command: str) -> Iterator[int]:
    """The server meanwhile runs at the place's address, put for {}; gives its pid."""
    words = command.format(place.server_address).split()
    process: Popen[str] = place.server.start(*words, stdout=DEVNULL, stderr=DEVNULL)
    try:
        wait_for(partial(_listens, place), f"{words[0]} in {place.name}")
        yield process.pid
    finally:
        process.kill()
        process.wait(10)


def _listens(place: Place) -> bool:
    return f":{_PORT} " in place.server.run("ss", "-Hltn").stdout


def _measure(place: Place, server: int, command: str) -> tuple[str, float]:
    """What a client prints, and the CPU time that it and the server took, in seconds."""
    before = _children_seconds() + _seconds(server)
    done = place.client.run(*command.split())
    taken = _children_seconds() + _seconds(server) - before
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout, taken


def _children_seconds() -> float:
    """CPU time of the processes that this one has waited for."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _seconds(pid: int) -> float:
    """CPU time of a running process: utime and stime of proc_pid_stat(5)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
