"""What a proxy that was taken over may leave for root to read: it must harm nobody but itself."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import pytest

from l7proxy import admin, files, procfs, record, status
from l7proxy.admin import Admin
from l7proxy.errors import ProxyFailure
from l7proxy.process import Proxy
from l7proxy.record import Record
from l7proxy.spec import ProxySpec

DEEP = "[" * 200_000
UID, GID = os.geteuid(), os.getegid()
OK = b"HTTP/1.1 200 OK\r\n"


def spec_in(directory: Path) -> ProxySpec:
    return ProxySpec("shop", "/run/netns/p", UID, GID, str(directory), None, "/envoy")


def a_record(**changes: object) -> str:
    truth = Record("shop", os.getpid(), 1, "/envoy", "1.40.0", "x", "y")
    return json.dumps({**asdict(truth), **changes})


@pytest.mark.parametrize(
    "text",
    [
        DEEP,
        '{"a":' * 100_000,
        a_record(pid=2**31),
        a_record(pid=10**400),
        a_record(start_time=-1),
        a_record(restarts=2**63),
    ],
    ids=["lists", "mappings", "pid", "long pid", "start time", "restarts"],
)
def test_a_forged_record_is_no_record(tmp_path: Path, text: str) -> None:
    Path(record.path(str(tmp_path))).write_text(text)
    assert record.read(str(tmp_path)) is None
    assert not Proxy(spec_in(tmp_path)).adopt()
    assert status.read_status(str(tmp_path)) is None


def test_a_record_does_not_choose_the_name_that_is_shown(tmp_path: Path) -> None:
    folder = tmp_path / "shop"
    folder.mkdir()
    Path(record.path(str(folder))).write_text(a_record(tenant="bank\x1b]0;pwned\a"))
    found = status.read_status(str(folder))
    assert found is not None and found.tenant == "shop"


def test_a_forged_configuration_has_no_version(tmp_path: Path) -> None:
    for text in (DEEP, '{"versionInfo": [1]}', '{"versionInfo": null}', "[]"):
        (tmp_path / "lds.json").write_text(text)
        assert status.written_versions(str(tmp_path)) == ("", "")


@pytest.mark.parametrize("value", ["1e999", "[]", "{}", "NaN", "null", "true", "9" * 4000 + ".5"])
def test_a_number_that_is_none(value: str) -> None:
    entries = ",".join(
        f'{{"name": "{name}", "value": {value}}}'
        for name in ("listener_manager.total_listeners_active", "http.inbound.downstream_cx_active")
    )
    with pytest.raises(ProxyFailure):
        status.health_of("LIVE\n", f'{{"stats": [{entries}]}}')
    with pytest.raises(ProxyFailure):
        status.health_of("LIVE\n", f'{{"stats": {DEEP}')


@pytest.fixture
def oddly_named() -> Iterator[int]:
    """A process whose name is no text."""
    code = "import ctypes; ctypes.CDLL(None).prctl(15, b'\\xff) \\xfe'); print(flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process.pid
        process.kill()


def test_a_process_with_an_odd_name(oddly_named: int) -> None:
    assert (procfs.start_time(oddly_named) or 0) >= (procfs.start_time(os.getpid()) or 0)
    assert procfs.owner(oddly_named) == UID


def test_an_ending_without_a_name() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        process = procfs.Process(child.pid)
        child.send_signal(signal.SIGRTMIN + 5)
        assert process.wait(5)
        assert process.ending() == f"killed by signal {signal.SIGRTMIN + 5}"
        process.close()


# --- the directory ---


def pipe(path: Path) -> None:
    os.mkfifo(path)


def folder(path: Path) -> None:
    (path / "full").mkdir(parents=True)


def second_name(path: Path) -> None:
    (path.parent / "other").write_text("another's")
    path.hardlink_to(path.parent / "other")


def link(path: Path) -> None:
    (path.parent / "other").write_text("another's")
    path.symlink_to("other")


@pytest.mark.parametrize("intruder", [pipe, folder, second_name, link])
def test_nothing_in_the_way_is_written_through(
    tmp_path: Path, intruder: Callable[[Path], None]
) -> None:
    for name in ("envoy.log", "lds.json", ".cds.json.new", "admin.sock"):
        intruder(tmp_path / name)
        (tmp_path / "other").exists() and (tmp_path / "other").rename(tmp_path / f"other-{name}")
    for name in ("lds.json", "envoy.log"):
        if intruder is not second_name:
            assert files.read(str(tmp_path / name)) is None
    log = files.open_log(str(tmp_path / "envoy.log"), keep=100)
    os.write(log, b"line\n")
    os.close(log)
    for name in ("lds.json", "cds.json"):
        files.write(str(tmp_path / name), "text", UID, GID)
        assert (tmp_path / name).read_text() == "text"
    files.remove(str(tmp_path / "admin.sock"))
    assert not (tmp_path / "admin.sock").exists()
    assert (tmp_path / "envoy.log").read_text() == "line\n"
    assert all(other.read_text() == "another's" for other in tmp_path.glob("other-*"))


def test_a_log_that_its_writer_holds_open_is_emptied(tmp_path: Path) -> None:
    log = tmp_path / "envoy.log"
    with os.fdopen(files.open_log(str(log), keep=100), "wb", buffering=0) as stream:
        stream.write(b"x" * 10)
        assert not files.empty(str(log), keep=10)
        assert files.empty(str(log), keep=9)
        stream.write(b"new")
    assert log.read_bytes() == b"new"
    (tmp_path / "second").hardlink_to(log)
    assert not files.empty(str(log), keep=1)
    assert log.read_bytes() == b"new"


def test_the_deepest_directory_is_removed() -> None:
    """Not in pytest's own directory, which it could not remove after a failure."""
    place = Path(tempfile.mkdtemp())
    (place / "kept").write_text("kept")
    (place / "deep").mkdir()
    (place / "deep/link").symlink_to("../kept")
    script = 'cd "$1"; for i in $(seq 1500); do mkdir d; cd d; done'
    try:
        subprocess.run(("sh", "-ec", script, "sh", place / "deep"), check=True)
        files.remove_tree(str(place / "deep"))
        files.remove_tree(str(place / "deep"))
        assert [entry.name for entry in place.iterdir()] == ["kept"]
    finally:
        subprocess.run(("rm", "-rf", place), check=True)


# --- the admin socket ---


@pytest.fixture
def fake(tmp_path: Path) -> Iterator[Callable[[Callable[[socket.socket], None]], Admin]]:
    """Starts an admin socket of this process that talks as it is told."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "admin.sock"))
    listener.listen()
    threads: list[threading.Thread] = []

    def start(talk: Callable[[socket.socket], None]) -> Admin:
        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                try:
                    talk(connection)
                except OSError:
                    return  # the other end had enough

        threads.append(threading.Thread(target=serve))
        threads[-1].start()
        return Admin(str(tmp_path / "admin.sock"), os.getpid())

    yield start
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()
    listener.close()


def drip(connection: socket.socket) -> None:
    """A byte whenever there is room for one, for longer than anybody should listen."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
    connection.sendall(OK)
    until = time.monotonic() + 8 * admin.TIMEOUT
    while time.monotonic() < until:
        connection.sendall(b"x")
        time.sleep(0.0002)


def flood(connection: socket.socket) -> None:
    """As much as anybody takes."""
    connection.sendall(OK + b"\r\n")
    for _ in range(2 * 1024):
        connection.sendall(b"[" * 65536)


@pytest.mark.parametrize("talk", [drip, flood])
def test_an_answer_without_an_end_is_cut_off(
    fake: Callable[[Callable[[socket.socket], None]], Admin],
    talk: Callable[[socket.socket], None],
) -> None:
    begun = time.monotonic()
    with pytest.raises(ProxyFailure):
        fake(talk).get("/ready")
    with pytest.raises(ProxyFailure):
        asyncio.run(fake(talk).fetch("/ready"))
    assert time.monotonic() - begun < 2 * admin.TIMEOUT + 1


@pytest.mark.parametrize(
    "answer",
    [
        OK + b"content-length: " + b"9" * 30 + b"\r\n\r\nLIVE\n",
        OK + b"transfer-encoding: chunked\r\n\r\n" + b"f" * 30 + b"\r\nLIVE\n",
        OK + b"x: y\r\n" * 5000 + b"\r\n",
        b"\xff\xfe 200\r\n\r\n",
    ],
    ids=["length", "chunk", "headers", "nonsense"],
)
def test_an_answer_that_is_none(
    fake: Callable[[Callable[[socket.socket], None]], Admin], answer: bytes
) -> None:
    with pytest.raises(ProxyFailure):
        fake(lambda connection: connection.sendall(answer)).get("/ready")
