"""Paths that manifests name as network namespaces, and that are none."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from pyagent.errors import KernelError
from pyagent.kernel.namespaces import entered
from pyagent.kernel.netlink import Netlink


def test_only_a_file_is_opened(tmp_path: Path) -> None:
    """To open a pipe would wait for ever, and to open a device could do anything."""
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
    for path in (tmp_path / "pipe", tmp_path / "socket", tmp_path, Path("/dev/null")):
        with pytest.raises(OSError, match="is no network namespace"), entered(str(path)):
            raise AssertionError("it was entered")
    with pytest.raises(KernelError, match="cannot be entered"):
        Netlink(str(tmp_path / "pipe"))


def test_a_file_is_no_namespace(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    before = Path("/proc/thread-self/ns/net").stat().st_ino
    with pytest.raises(OSError), entered(str(tmp_path / "file")):
        raise AssertionError("it was entered")
    assert Path("/proc/thread-self/ns/net").stat().st_ino == before
