"""The kernel's own ring buffer, the event stream and the metrics, fed by the real programs."""

from __future__ import annotations

import os
import random
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.l2 import Ether

from pyagent.bpfsource import bpf_directory
from pyagent.config import MapSizes
from pyagent.errors import KernelError, SluiceError
from pyagent.events import End, EventServer, FlowEvent, Lost, Subscription, subscribe
from pyagent.kernel import abi, bpf, loader, pins
from pyagent.kernel.ringbuf import RingBuffer
from pyagent.kernel.tables import Tables
from pyagent.metrics import Metrics, NodeCollector, serve
from pyagent.state import NodeState, WorkloadState, events_path

SIZE = 65_536  # of the ring, bytes
ROOM = SIZE // (abi.load().layouts["event"].size + 8)  # records that it holds
WEB, OUTSIDE = "10.1.0.2", "192.0.2.9"
CLOSED = ("10.1.0.3", "10.1.0.4")  # local workloads that nobody may reach
MAC = "02:00:00:00:00:01"
LOOPBACK, PROXY = 1, 4_000_001  # ifindex of test runs; one that is never used
IDENTITY, TENANT, OPEN_RULE, HTTP_RULE = 256, 3, 7, 8
DEADLINE = 20.0
STATE = NodeState(
    node="node-1",
    version="1.2.3",
    pid=1,
    started=0.0,
    rules={OPEN_RULE: "shop/open egress[0]"},
    identities={IDENTITY: "ns shop, app=web"},
    tenants={TENANT: "shop"},
    workloads=(WorkloadState("shop/web-1", IDENTITY, TENANT, "lo", LOOPBACK, None, (WEB,)),),
)


def eventually(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < until, "it did not come about in time"
        time.sleep(0.002)


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@dataclass(frozen=True)
class Node:
    """Loaded programs with one workload: TCP is allowed, to port 80 handed off, the rest denied."""

    pins: Path
    tables: Tables
    program: int

    def ring(self) -> RingBuffer:
        return RingBuffer(bpf.open_pin(self.pins / "events"))

    def send(self, packet: Any, repeat: int = 1) -> None:
        bpf.run(self.program, bytes(packet), repeat=repeat)

    def deny(self, numbers: range) -> None:
        """One denied packet a number, which its event carries as the port."""
        for number in numbers:
            self.send(Ether(PACKET[:34] + number.to_bytes(2, "big") + PACKET[36:]))

    def stat(self, name: str) -> int:
        choice = next(c for c in abi.load().lists["STATS"] if c.name == name)
        return int((self.tables["stats"].get({"index": choice.number}) or {})["value"])

    def drained(self) -> bool:
        fd = bpf.open_pin(self.pins / "events")
        try:
            return not select.select([fd], [], [], 0)[0]
        finally:
            os.close(fd)

    def deny_slowly(self, numbers: range) -> None:
        """The same, never more than the ring holds."""
        for start in range(numbers.start, numbers.stop, ROOM // 2):
            self.deny(range(start, min(start + ROOM // 2, numbers.stop)))
            eventually(self.drained)

    def set_proxy(self, ready: int, failure_mode: int = 0) -> None:
        self.tables["tenants"].put(
            {"tenant": TENANT}, {"proxy": PROXY, "ready": ready, "failure_mode": failure_mode}
        )


PACKET = bytes(Ether(dst=MAC) / IP(src=WEB, dst=OUTSIDE) / UDP(sport=0, dport=9, chksum=0) / b"ask")


def syn(port: int, source_port: int, to: str = OUTSIDE) -> Any:
    return Ether(dst=MAC) / IP(src=WEB, dst=to) / TCP(sport=source_port, dport=port)


def fill(tables: Tables) -> None:
    who = {"identity": IDENTITY, "tenant": TENANT, "mac": MAC, "node_mac": MAC}
    tables["workloads"].put({"ifindex": LOOPBACK}, who)
    tables["local_addrs"].put({"address": ip_address(WEB)}, {**who, "ifindex": LOOPBACK})
    for number, address in enumerate(CLOSED, IDENTITY + 1):
        there = {**who, "identity": number, "ifindex": PROXY + number}
        tables["local_addrs"].put({"address": ip_address(address)}, there)
    tables["identities"].put({"address": ip_address("::")}, {"identity": 2})
    allow, handoff = ({"verdict": 1, "rule": OPEN_RULE}, {"verdict": 2, "rule": HTTP_RULE})
    tcp = {"subject": IDENTITY, "direction": 1, "protocol": 6}
    tables["policy"].put({**tcp, "prefixlen": 80}, allow)
    tables["policy"].put({**tcp, "prefixlen": 96, "port": 80}, handoff)
    tables["proxies"].put({"ifindex": PROXY}, {"tenant": TENANT, "mac": MAC})


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    state_dir = tmp_path_factory.mktemp("state")
    folder = pins.mount(state_dir)
    try:
        programs = loader.load(folder, MapSizes(events=SIZE), proxy_port=15001)
        with Tables(folder) as tables:
            fill(tables)
            yield Node(folder, tables, programs.fds["from_workload"])
        programs.close()
    finally:
        pins.unmount(state_dir)


@pytest.fixture
def ring(node: Node) -> Iterator[RingBuffer]:
    with closing(node.ring()) as opened:
        while opened.poll(0):
            pass
        yield opened


@pytest.fixture
def run_dir() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:  # short: a socket's path has 107 characters
        yield Path(folder)


@pytest.fixture
def server(node: Node, run_dir: Path) -> Iterator[EventServer]:
    with closing(EventServer(node.ring(), run_dir, lambda: STATE)) as running:
        eventually(node.drained)
        yield running


def ports(records: list[bytes]) -> list[Any]:
    return [abi.load().layouts["event"].unpack(raw)["source_port"] for raw in records]


# The ring


def test_records_come_in_order_over_many_turns_of_the_ring(node: Node, ring: RingBuffer) -> None:
    chance = random.Random(1)
    read: list[Any] = []
    sent = 0
    while sent < 30 * ROOM:
        more = chance.randint(1, ROOM)
        node.deny(range(sent, sent + more))
        sent += more
        read += ports(ring.poll(0))
    assert read == list(range(sent))


def test_a_full_ring_loses_what_is_new_and_the_kernel_counts_it(
    node: Node, ring: RingBuffer
) -> None:
    before = node.stat("EVENTS_LOST")
    node.deny(range(ROOM + 250))
    assert ports(ring.poll(0)) == list(range(ROOM))
    assert node.stat("EVENTS_LOST") == before + 250
    node.deny(range(5))
    assert ports(ring.poll(0)) == list(range(5))


def test_reading_while_another_cpu_writes_misses_nothing(node: Node, ring: RingBuffer) -> None:
    packets = 200_000
    before = node.stat("EVENTS_LOST")
    writer = threading.Thread(target=node.send, args=(PACKET, packets))
    writer.start()
    read = 0
    slowest = 0.0
    while writer.is_alive() or read + node.stat("EVENTS_LOST") - before < packets:
        begun = time.monotonic()
        records = ring.poll(2.0)
        assert all(len(raw) == abi.load().layouts["event"].size for raw in records)
        read += len(records)
        if records:  # at the end there is nothing to wait for
            slowest = max(slowest, time.monotonic() - begun)
    writer.join(DEADLINE)
    assert read + node.stat("EVENTS_LOST") - before == packets
    assert read > ROOM
    assert slowest < 1.9  # no wake-up was missed


def test_poll_waits_for_a_record_but_not_longer_than_told(node: Node, ring: RingBuffer) -> None:
    begun = time.monotonic()
    assert ring.poll(0.1) == []
    assert 0.09 < time.monotonic() - begun < 1.0
    late = threading.Timer(0.1, node.deny, (range(42, 43),))
    late.start()
    begun = time.monotonic()
    assert ports(ring.poll(DEADLINE)) == [42]
    assert time.monotonic() - begun < DEADLINE / 2
    late.join()


def test_a_new_consumer_goes_on_where_the_last_one_stopped(node: Node, ring: RingBuffer) -> None:
    node.deny(range(3))
    assert ports(ring.poll(0)) == [0, 1, 2]
    ring.close()
    ring.close()
    node.deny(range(3, 5))
    with closing(node.ring()) as after:
        assert ports(after.poll(0)) == [3, 4]


def test_a_map_of_another_type_is_refused(node: Node) -> None:
    before = descriptors()
    with pytest.raises(KernelError, match="is not a ring buffer"):
        RingBuffer(bpf.open_pin(node.pins / "stats"))
    assert descriptors() == before


SKETCH = """
BPF_RINGBUF_OUTPUT(ring, 64);
struct note { u32 first; u32 second[11]; };

/* The mark says what becomes of a record: 0 given up, 1 short, 2 long. */
int write(struct __sk_buff *skb)
{
    u32 tail = skb->len;
    if (skb->mark == 1)
        return ring.ringbuf_output(&tail, sizeof(tail), 0);
    struct note *note = ring.ringbuf_reserve(sizeof(struct note));
    if (!note)
        return 1;
    __builtin_memset(note, 0, sizeof(*note));
    note->first = tail;
    if (skb->mark == 0)
        ring.ringbuf_discard(note, 0);
    else
        ring.ringbuf_submit(note, 0);
    return 0;
}
"""


@pytest.fixture
def sketch(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[int, RingBuffer]]:
    """A program that writes records of two lengths, and gives some up."""
    monkeypatch.setenv("BCC_KERNEL_SOURCE", str(bpf_directory() / "kheaders"))
    from bcc import BPF

    machine = f"-I/usr/include/{os.uname().machine}-linux-gnu"
    module = BPF(text="#include <linux/bpf.h>\n" + SKETCH, cflags=["-I/usr/include", machine])
    program = module.load_func("write", BPF.SCHED_CLS).fd
    with closing(RingBuffer(os.dup(module["ring"].map_fd))) as opened:
        yield program, opened
    module.cleanup()


def write(program: int, mark: int, length: int) -> None:
    context = b"\0" * 8 + mark.to_bytes(4, sys.byteorder) + b"\0" * 180
    assert bpf.run(program, bytes(length), context).retval == 0


def test_discarded_records_are_passed_over(sketch: tuple[int, RingBuffer]) -> None:
    program, ring = sketch
    chance = random.Random(2)
    for _ in range(400):
        sizes = [(chance.randrange(3), chance.randint(64, 1500)) for _ in range(50)]
        for mark, length in sizes:
            write(program, mark, length)
        read = [(len(raw), int.from_bytes(raw[:4], sys.byteorder)) for raw in ring.poll(0)]
        assert read == [((4, 48)[mark - 1], length) for mark, length in sizes if mark]
    write(program, 0, 64)
    assert ring.poll(0.05) == []


def test_one_call_reads_a_bounded_number(sketch: tuple[int, RingBuffer]) -> None:
    program, ring = sketch
    for length in range(10_000):
        write(program, 1, 64 + length % 1000)
    assert [len(ring.poll(0)) for _ in range(4)] == [4096, 4096, 1808, 0]


# The stream


def test_a_subscriber_is_told_who_what_and_why(
    node: Node, server: EventServer, run_dir: Path
) -> None:
    node.set_proxy(ready=1)
    with subscribe(run_dir) as stream:
        node.deny(range(1234, 1235))
        node.send(syn(443, 5000))
        node.send(syn(80, 5001))
        denied, allowed, handed = (stream.receive(DEADLINE) for _ in range(3))
    assert isinstance(denied, FlowEvent)
    assert isinstance(allowed, FlowEvent)
    assert isinstance(handed, FlowEvent)
    web = End(ip_address(WEB), 1234, 2, "world", "shop/web-1")
    outside = End(ip_address(OUTSIDE), 9, 2, "world", None)
    assert denied == FlowEvent(
        time=denied.time,
        type="drop",
        verdict="deny",
        reason="policy_egress",
        direction="egress",
        protocol="UDP",
        source=web,
        destination=outside,
        rule=None,
        tenant=None,
        ifindex=LOOPBACK,
        length=len(PACKET),
        tcp_flags="",
    )
    assert abs(denied.time - time.time()) < DEADLINE
    assert (allowed.type, allowed.verdict, allowed.reason) == ("policy", "allow", "none")
    assert (allowed.rule, allowed.tcp_flags) == ("shop/open egress[0]", "SYN")
    assert (handed.type, handed.tenant, handed.rule) == ("handoff", "shop", str(HTTP_RULE))
    assert denied.time <= allowed.time <= handed.time


def test_names_follow_the_state_in_force(node: Node, run_dir: Path) -> None:
    states = [STATE]
    with closing(EventServer(node.ring(), run_dir, lambda: states[-1])), subscribe(run_dir) as s:
        node.deny(range(1, 2))
        first = s.receive(DEADLINE)
        states.append(replace(STATE, identities={2: "elsewhere"}, workloads=()))
        node.deny(range(2, 3))
        second = s.receive(DEADLINE)
    assert isinstance(first, FlowEvent)
    assert isinstance(second, FlowEvent)
    assert first.source == End(ip_address(WEB), 1, 2, "world", "shop/web-1")
    assert second.source == End(ip_address(WEB), 2, 2, "elsewhere", None)


def test_the_socket_is_for_its_owner_alone(server: EventServer, run_dir: Path) -> None:
    assert events_path(run_dir).stat().st_mode & 0o777 == 0o600


def test_without_a_subscriber_the_ring_is_drained(node: Node, server: EventServer) -> None:
    before = node.stat("EVENTS_LOST")
    node.deny_slowly(range(5 * ROOM))
    assert node.stat("EVENTS_LOST") == before


def sequence(stream: Subscription, upto: int) -> tuple[int, int]:
    """Reads until event `upto`, and holds each count of lost events against the gap it fills."""
    following, lost, told = 0, 0, 0
    while following <= upto:
        item = stream.receive(DEADLINE)
        assert item is not None, f"no event came after {following - 1}"
        if isinstance(item, Lost):
            following += item.count
            lost += item.count
        else:
            assert item.source.port == following
            following += 1
            told += 1
    return told, lost


def test_a_slow_subscriber_loses_events_is_told_and_keeps_nobody_waiting(
    node: Node, server: EventServer, run_dir: Path
) -> None:
    total = 12_000
    before = node.stat("EVENTS_LOST")
    with subscribe(run_dir) as slow, subscribe(run_dir) as fast:
        seen: list[tuple[int, int]] = []
        reader = threading.Thread(target=lambda: seen.append(sequence(fast, total)))
        reader.start()
        node.deny_slowly(range(total))
        assert node.stat("EVENTS_LOST") == before
        held: list[FlowEvent | Lost] = []
        while not held or not isinstance(held[-1], Lost):
            item = slow.receive(DEADLINE)
            assert item is not None
            held.append(item)
        last = held[-1]
        assert isinstance(last, Lost)
        assert last.count > 1000
        assert len(held) - 1 + last.count == total
        node.deny(range(total, total + 1))
        after = slow.receive(DEADLINE)
        assert isinstance(after, FlowEvent)
        assert after.source.port == total
        reader.join(DEADLINE)
    assert seen == [(total + 1, 0)]


def test_a_slow_subscriber_gets_its_count_in_the_place_of_the_gap(
    node: Node, server: EventServer, run_dir: Path
) -> None:
    with subscribe(run_dir) as stream:
        node.deny_slowly(range(9000))
        more = threading.Thread(target=node.deny_slowly, args=(range(9000, 12_000),))
        more.start()
        told, lost = sequence(stream, 11_999)
        more.join(DEADLINE)
    assert told + lost == 12_000
    assert lost > 0


def test_many_subscribers_each_get_every_event(
    node: Node, server: EventServer, run_dir: Path
) -> None:
    with ExitStack() as stack:
        streams = [stack.enter_context(subscribe(run_dir)) for _ in range(40)]
        node.deny(range(300))
        assert {sequence(stream, 299) for stream in streams} == {(300, 0)}


def test_there_is_a_bound_to_subscribers_and_room_again_when_one_leaves(
    node: Node, server: EventServer, run_dir: Path
) -> None:
    with ExitStack() as stack:
        streams = [stack.enter_context(subscribe(run_dir)) for _ in range(64)]
        with pytest.raises(SluiceError, match="does not answer"):
            subscribe(run_dir)
        streams[0].close()
        node.deny(range(1))
        streams[1].receive(DEADLINE)
        with subscribe(run_dir) as late:
            node.deny(range(1))
            assert sequence(late, 0) == (1, 0)


def test_subscribers_that_vanish_leave_nothing_behind(
    node: Node, server: EventServer, run_dir: Path
) -> None:
    default = signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # a write may not count on it
    try:
        before = descriptors()
        for number in range(100):
            raw = socket.socket(socket.AF_UNIX)
            raw.connect(str(events_path(run_dir)))
            node.deny(range(20))
            if number % 2:
                raw.recv(100)
                node.deny(range(20))
            raw.close()
        with subscribe(run_dir) as stream:
            eventually(lambda: descriptors() == before + 2)
            eventually(node.drained)
            node.deny(range(1))
            while (item := stream.receive(DEADLINE)) and getattr(item, "type", "") != "drop":
                pass
            assert item is not None
        eventually(lambda: descriptors() == before)
    finally:
        signal.signal(signal.SIGPIPE, default)


def test_close_is_quick_and_ends_every_subscription(node: Node, run_dir: Path) -> None:
    before, threads = descriptors(), threading.active_count()
    running = EventServer(node.ring(), run_dir, lambda: STATE)
    with subscribe(run_dir) as waiting, subscribe(run_dir) as slow:
        node.deny_slowly(range(1500))
        assert sequence(waiting, 1499) == (1500, 0)
        begun = time.monotonic()
        running.close()
        running.close()
        assert time.monotonic() - begun < 1.0
        assert list(waiting) == []
        assert waiting.ended
        assert not events_path(run_dir).exists()
        told = [item.source.port for item in slow if isinstance(item, FlowEvent)]
        assert len(told) > 100  # what had reached its socket
        assert told == list(range(len(told)))
    assert (descriptors(), threading.active_count()) == (before, threads)


def test_a_subscription_ends_after_its_time_or_when_closed(
    node: Node, server: EventServer, run_dir: Path
) -> None:
    begun = time.monotonic()
    with subscribe(run_dir, seconds=0.2) as stream:
        node.deny(range(2))
        assert [item.source.port for item in stream if isinstance(item, FlowEvent)] == [0, 1]
        assert not stream.ended
    assert 0.2 <= time.monotonic() - begun < 2.0
    with subscribe(run_dir) as stream:
        stopper = threading.Timer(0.1, stream.close)
        stopper.start()
        assert list(stream) == []
        stopper.join()
        assert stream.ended


AGENT = """
import sys, time
from pathlib import Path
from pyagent.events import EventServer
from pyagent.kernel import bpf
from pyagent.kernel.ringbuf import RingBuffer
from pyagent.state import NodeState
ring = RingBuffer(bpf.open_pin(Path(sys.argv[1]) / "events"))
EventServer(ring, Path(sys.argv[2]), lambda: NodeState("n", "0", 1, 0.0))
print("ready", flush=True)
time.sleep(60)
"""


def test_the_socket_of_a_killed_agent_is_replaced(node: Node, run_dir: Path) -> None:
    command = [sys.executable, "-c", AGENT, str(node.pins), str(run_dir)]
    root = Path(__file__).parents[2]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=root) as agent:
        try:
            assert agent.stdout is not None
            assert agent.stdout.readline() == b"ready\n"
            with subscribe(run_dir) as stream:
                agent.kill()
                assert list(stream) == []
                assert stream.ended
        finally:
            agent.kill()
    assert events_path(run_dir).exists()
    with closing(EventServer(node.ring(), run_dir, lambda: STATE)), subscribe(run_dir) as stream:
        node.deny(range(1))
        assert isinstance(stream.receive(DEADLINE), FlowEvent)


def test_a_run_directory_that_is_not_there_is_told_in_one_line(node: Node, run_dir: Path) -> None:
    before = descriptors()
    with pytest.raises(SluiceError, match="no socket can be made here") as refused:
        EventServer(node.ring(), run_dir / "missing", lambda: STATE)
    assert "\n" not in str(refused.value)
    assert descriptors() == before


# The metrics


Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def scrape(port: int) -> Samples:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"http://127.0.0.1:{port}/metrics", timeout=DEADLINE) as answer:
        families = list(text_string_to_metric_families(answer.read().decode()))
    assert all(family.documentation for family in families)
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
    }


def test_the_maps_are_read_at_each_scrape(node: Node, ring: RingBuffer) -> None:
    def value(found: Samples, name: str, **labels: str) -> float:
        return found[f"sluice_{name}", frozenset(labels.items())]

    collector = NodeCollector(node.pins, lambda: STATE, Metrics("1.2.3"))
    with closing(serve("127.0.0.1:0", collector)) as endpoint:
        node.set_proxy(ready=0, failure_mode=1)
        before = scrape(endpoint.port)
        node.deny(range(ROOM + 10))
        node.send(syn(443, 6000), repeat=5)
        for address in CLOSED:
            node.send(syn(443, 6000, address))
        node.send(syn(80, 6001))
        node.set_proxy(ready=1)
        node.send(syn(80, 6002))
        after = scrape(endpoint.port)

    def grown(name: str, **labels: str) -> float:
        return value(after, name, **labels) - value(before, name, **labels)

    assert grown("drop_count_total", reason="policy_egress", direction="egress") == ROOM + 10
    assert grown("drop_count_total", reason="policy_ingress", direction="ingress") == 2
    assert grown("forward_count_total", direction="egress") == 7
    assert grown("forward_bytes_total", direction="egress") == 7 * len(bytes(syn(80, 1)))
    assert grown("forward_count_total", direction="ingress") == 0
    assert grown("failed_open_total") == 1
    assert grown("handoff_total", kind="early", protocol="http") == 1
    assert grown("events_lost_total") == 10 + 5
    assert value(before, "proxy_ready", tenant="shop") == 0
    assert value(after, "proxy_ready", tenant="shop") == 1
    assert grown("map_pressure", map="conntrack") == pytest.approx(3 / MapSizes().conntrack)
    assert value(after, "map_pressure", map="policy") == 2 / MapSizes().policy
    maps = {dict(labels)["map"] for name, labels in after if name == "sluice_map_pressure"}
    assert maps == set(abi.load().maps) - {"stats", "settings"}
    reasons = {
        dict(labels)["reason"] for name, labels in after if name.endswith("drop_count_total")
    }
    assert reasons == {c.name.lower() for c in abi.load().lists["DROP_REASONS"]} - {"none"}
