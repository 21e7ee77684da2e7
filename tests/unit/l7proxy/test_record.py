"""The record, and whom it lets adopt."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from l7proxy import files, procfs, record
from l7proxy.process import Proxy
from l7proxy.record import Record
from l7proxy.spec import ProxySpec

UID = os.geteuid()


@pytest.fixture
def running() -> Iterator[subprocess.Popen[bytes]]:
    """A process that stands for an Envoy; it ends with its standard input."""
    process = subprocess.Popen([sys.executable, "-c", "open(0).read()"], stdin=subprocess.PIPE)
    yield process
    process.communicate()


@pytest.fixture
def truth(running: subprocess.Popen[bytes]) -> Record:
    """A record that is right about it."""
    started = procfs.start_time(running.pid)
    assert started is not None
    binary = str(Path(sys.executable).resolve())
    return Record("shop", running.pid, started, binary, "1.40.0", "x", "y")


def spec_in(directory: Path) -> ProxySpec:
    return ProxySpec("shop", "/run/netns/p", UID, os.getegid(), str(directory), None, "/envoy")


def keep(directory: Path, text: str) -> None:
    files.write(record.path(str(directory)), text, UID, os.getegid())


def test_what_is_written_is_read_again(tmp_path: Path, truth: Record) -> None:
    keep(tmp_path, record.encode(truth))
    assert record.read(str(tmp_path)) == truth
    assert Path(record.path(str(tmp_path))).stat().st_mode & 0o777 == 0o600
    assert [entry.name for entry in tmp_path.iterdir()] == ["proxy.json"]


@pytest.mark.parametrize(
    "change",
    [{"pid": "1"}, {"pid": 0}, {"pid": True}, {"pid": 1.0}, {"extra": 1}, {"tenant": None}],
)
def test_anything_else_is_no_record(truth: Record, change: dict[str, object]) -> None:
    assert record.decode(json.dumps({**asdict(truth), **change})) is None
    assert record.decode("{") is None
    assert record.decode("[]") is None


def test_the_very_process_is_adopted(tmp_path: Path, truth: Record) -> None:
    keep(tmp_path, record.encode(truth))
    proxy = Proxy(spec_in(tmp_path))
    assert proxy.adopt()
    assert proxy.process is not None and proxy.process.pid == truth.pid
    assert proxy.process.alive()
    proxy.forget()


def test_a_recycled_pid_is_not(tmp_path: Path, truth: Record) -> None:
    for wrong in (
        replace(truth, start_time=truth.start_time - 1),
        replace(truth, envoy="/usr/bin/envoy"),
        replace(truth, pid=os.getpid()),
        replace(truth, pid=2**22 + 1),
    ):
        keep(tmp_path, record.encode(wrong))
        assert not Proxy(spec_in(tmp_path)).adopt()
    keep(tmp_path, record.encode(truth))
    assert not Proxy(replace(spec_in(tmp_path), uid=UID + 1)).adopt()


def test_nor_is_one_that_has_ended(
    tmp_path: Path, truth: Record, running: subprocess.Popen[bytes]
) -> None:
    keep(tmp_path, record.encode(truth))
    held = procfs.Process(truth.pid)
    running.kill()
    assert held.wait(5)
    assert procfs.start_time(truth.pid) == truth.start_time  # it is a zombie until it is reaped
    assert held.ending() == "killed by SIGKILL"
    assert not Proxy(spec_in(tmp_path)).adopt()
    held.close()


def test_links_are_not_followed(tmp_path: Path) -> None:
    """The directory is the proxy's: what it puts there must not lead root elsewhere."""
    secret = tmp_path / "secret"
    secret.write_text("private")
    link = tmp_path / "link"
    link.symlink_to(secret)
    assert files.read(str(link)) is None
    os.close(files.open_log(str(link), keep=100))
    assert not link.is_symlink()
    link.unlink()
    link.symlink_to(secret)
    files.write(str(link), "mine", UID, os.getegid())
    assert secret.read_text() == "private"
    assert not link.is_symlink() and link.read_text() == "mine"


def test_a_log_that_has_grown_is_set_aside(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("0123456789")
    os.close(files.open_log(str(log), keep=10))
    assert log.read_text() == "0123456789"
    os.close(files.open_log(str(log), keep=9))
    assert log.read_text() == ""
    assert (tmp_path / "log.1").read_text() == "0123456789"
