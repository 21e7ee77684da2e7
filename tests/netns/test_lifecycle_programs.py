"""Other programs under running traffic, and pins that this version cannot use."""

from __future__ import annotations

import signal
import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyagent.kernel import abi, bpf, pins
from tests.netns.lifecycle import (
    ADDRESSES,
    Town,
    assert_grown,
    build,
    counts,
    filters,
    standing,
)
from tests.netns.load import Load
from tests.netns.node import Node, wait_for
from tests.netns.traffic import connect, greet, receive

WEB = ADDRESSES["web"][0]
OTHER_SIZE = 8_388_608  # of the ring buffer: another build of the programs
_MAP_CREATE = 0  # enum bpf_cmd
_TYPE_HASH = 1  # enum bpf_map_type


@pytest.fixture(scope="module")
def town(shared_node: Node) -> Iterator[Town]:
    yield build(shared_node)


class Transfer:
    """A thread that sends what it likes to the echo server, and another that compares."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._done = threading.Event()
        self.sent = self.back = 0
        self._threads = [threading.Thread(target=work) for work in (self._send, self._compare)]
        greet(connection)
        for thread in self._threads:
            thread.start()

    @staticmethod
    def _block(number: int) -> bytes:
        return b"%08d" % number * 1024

    def _send(self) -> None:
        while not self._done.wait(0.001):
            self._connection.sendall(self._block(self.sent))
            self.sent += 1
        self._connection.shutdown(socket.SHUT_WR)

    def _compare(self) -> None:
        while receive(self._connection, len(self._block(0))) == self._block(self.back):
            self.back += 1

    def end(self) -> int:
        """How many blocks came back, every one as it was sent."""
        self._done.set()
        for thread in self._threads:
            thread.join()
        self._connection.close()
        assert self.back == self.sent
        return self.back


def test_programs_are_replaced_under_traffic(town: Town) -> None:
    """Also by an agent that is killed half-way. Everything but programs and ring stays."""
    node, client = town.node, town.hosts["client"]
    transfer = Transfer(connect(client, WEB, 5000))
    with Load(client, *town.flows("client", "web")) as load:
        before, numbers = standing(node, "shop", "bank"), counts(node)
        node.stop_agent()
        node.configure(mapSizes={"events": OTHER_SIZE})
        node.start_agent(wait=False)
        wait_for(lambda: filters(node) != before.filters, "the first new program", 30)
        node.stop_agent(signal.SIGKILL)
        between = filters(node)
        node.start_agent()
        after = standing(node, "shop", "bank")
        assert_grown(numbers, counts(node))
        load.stop_unharmed()
    assert transfer.end() > 100
    assert between.keys() == before.filters.keys() == after.filters.keys()
    assert all(after.filters[place] != program for place, program in before.filters.items())
    assert {name for name, number in after.maps.items() if before.maps[name] != number} == {
        "events"
    }
    assert (after.proxies, after.rows) == (before.proxies, before.rows)
    assert after.revision == before.revision
    assert len(list(pins.pin_directory(node.state_dir).glob("programs-*"))) == 1


def make_map(path: Path, key: int, value: int) -> None:
    """Pins a hash of these sizes."""
    fd, _ = bpf._bpf(_MAP_CREATE, struct.pack("=5I", _TYPE_HASH, key, value, 16, 0))
    bpf.pin(fd, path)
    bpf.close(fd)


def test_pins_of_another_layout_are_refused(town: Town) -> None:
    """With one line, and what is there is left alone."""
    node, layout = town.node, abi.load().maps["proxies"]
    node.stop_agent()
    before = standing(node, "shop", "bank")
    pin = pins.pin_directory(node.state_dir) / "proxies"
    right = bpf.open_pin(pin)
    pin.unlink()
    try:
        make_map(pin, layout.key.size, layout.value.size + 4)
        refused = node.sluice("agent", "--config", str(node.config))
    finally:
        pin.unlink()
        bpf.pin(right, pin)
        bpf.close(right)
    size = layout.value.size
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr == (
        f"sluice: {pin}: pinned with key and value of {layout.key.size} and {size + 4} bytes, "
        f"this version needs {layout.key.size} and {size}: run the version that made it, or "
        "sluice cleanup\n"
    )
    assert standing(node, "shop", "bank") == before
    node.start_agent()
    assert standing(node, "shop", "bank") == before
