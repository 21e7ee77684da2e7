"""Reading what Envoy says of itself."""

from __future__ import annotations

import json
import os
import socket
import threading
from pathlib import Path

import pytest

from l7proxy import status
from l7proxy.admin import Admin
from l7proxy.errors import ProxyFailure

VALUES = {
    "listener_manager.total_listeners_active": 2,
    "listener_manager.workers_started": 1,
    "listener_manager.lds.version_text": "a",
    "cluster_manager.cds.version_text": "b",
    "http.inbound.downstream_cx_active": 3,
    "http.inbound.downstream_rq_active": 1,
    "http.inbound.downstream_cx_tx_bytes_buffered": 0,
}


def stats(**changes: int | str) -> str:
    values = {**VALUES, **{f"listener_manager.{name}": value for name, value in changes.items()}}
    listed = [{"name": name, "value": value} for name, value in values.items()]
    return json.dumps({"stats": [*listed, {"histograms": {}}]})


def test_health() -> None:
    health = status.health_of("LIVE\n", stats())
    assert health == status.Health(True, True, 3, 1, 0, ("a", "b"))
    assert health.ready and health.busy


@pytest.mark.parametrize(
    ("ready", "answer"),
    [
        ("INITIALIZING\n", stats()),
        ("DRAINING\n", stats()),
        ("LIVE\n", stats(total_listeners_active=1)),
        ("LIVE\n", stats(workers_started=0)),
    ],
)
def test_not_ready(ready: str, answer: str) -> None:
    assert not status.health_of(ready, answer).ready


@pytest.mark.parametrize("answer", ["", "[]", "{}", '{"stats": [{"name": "x"}]}', '{"stats": []}'])
def test_other_answers_are_a_failure(answer: str) -> None:
    with pytest.raises(ProxyFailure):
        status.health_of("LIVE\n", answer)


def test_refusals_are_told_in_one_line(tmp_path: Path) -> None:
    log = tmp_path / "envoy.log"
    log.write_text(
        "[t][warning][config] Filesystem config update rejected: an older one\n"
        "[t][warning][config] Filesystem config update failure: in /x/lds.json, Unable to parse"
        " JSON as proto (INVALID_ARGUMENT: could not find @type \\'nope\\'): {\\n \\\"a\\\": 1\n"
        "[t][warning][main] something else\n"
    )
    assert status.refusal(str(tmp_path)) == (
        "in /x/lds.json, Unable to parse JSON as proto"
        " (INVALID_ARGUMENT: could not find @type 'nope'"
    )
    assert status.last_words(str(tmp_path)) == "something else"
    assert status.last_words(str(tmp_path), log.stat().st_size) is None
    long = status.shorten("begin\x1b[0m" + "x" * 9999 + "\\nend")
    assert len(long) < 500 and long.startswith("begin [0m") and long.endswith(" end")


def test_no_record_no_status(tmp_path: Path) -> None:
    assert status.read_status(str(tmp_path)) is None


@pytest.fixture
def listener(tmp_path: Path) -> socket.socket:
    made = socket.socket(socket.AF_UNIX)
    made.bind(str(tmp_path / "admin.sock"))
    made.listen()
    return made


def test_an_answer_is_read_whole(tmp_path: Path, listener: socket.socket) -> None:
    asked: list[bytes] = []

    def answer() -> None:
        connection, _ = listener.accept()
        with connection:
            asked.append(connection.recv(1000))
            connection.sendall(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nLIVE\n")
            connection.sendall(b"\r\n0\r\n\r\n")

    thread = threading.Thread(target=answer)
    thread.start()
    assert Admin(str(tmp_path / "admin.sock"), os.getpid()).get("/ready") == "LIVE\n"
    thread.join()
    assert asked[0].startswith(b"GET /ready HTTP/1.1\r\n")


@pytest.mark.parametrize(
    ("link", "pid"), [(False, os.getppid()), (True, os.getpid())], ids=["another's", "a link"]
)
def test_a_socket_that_is_not_the_proxys(
    tmp_path: Path, listener: socket.socket, link: bool, pid: int
) -> None:
    path = tmp_path / "admin.sock"
    if link:
        path = tmp_path / "link"
        path.symlink_to("admin.sock")
    with pytest.raises(ProxyFailure, match="admin socket"):
        Admin(str(path), pid).get("/ready")


def test_one_that_never_answers(tmp_path: Path, listener: socket.socket) -> None:
    with pytest.raises(ProxyFailure, match="Envoy's admin socket: "):
        Admin(str(tmp_path / "admin.sock"), os.getpid()).get("/ready")
