"""Compiling and loading the programs: BCC, without kernel headers, once per source and settings.

Called by the agent. Programs are pinned beside their maps in a folder named after a hash of the
source and its defines, so a restarted agent finds the very programs it would load and compiles
nothing. The only module that imports BCC.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import re
import shutil
import sys
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pyagent.bpfsource import bpf_directory
from pyagent.config import MapSizes
from pyagent.errors import KernelError
from pyagent.kernel import abi, bpf

PROGRAMS = ("from_workload", "to_workload", "from_proxy", "to_proxy")
_PAGE = 4096  # what bpf/kheaders takes a page to be


@dataclass(frozen=True, slots=True)
class Programs:
    """The loaded programs' descriptors by name, and whether they had to be compiled."""

    fds: Mapping[str, int]
    compiled: bool

    def close(self) -> None:
        """Closes the descriptors; what is attached or pinned stays."""
        for fd in self.fds.values():
            os.close(fd)


def flatten(directory: Path, name: str = "node.bpf.c") -> str:
    """The translation unit with our own headers put in place.

    BCC rewrites map accesses in its main file only, hence one text; line markers keep the
    compiler's messages true.
    """
    seen: set[str] = set()

    def expand(file: str) -> list[str]:
        if file in seen:
            return []
        seen.add(file)
        lines = [f'#line 1 "bpf/{file}"']
        for number, line in enumerate((directory / file).read_text().splitlines(), 2):
            include = re.fullmatch(r'#include "(.+)"', line)
            if include:
                lines += [*expand(include[1]), f'#line {number} "bpf/{file}"']
            else:
                lines.append(line)
        return lines

    return "\n".join(expand(name)) + "\n"


def _flags(pins: Path, sizes: MapSizes, proxy_port: int) -> list[str]:
    defines = {f"SIZE_{name.upper()}": size for name, size in asdict(sizes).items()}
    defines["EVENT_PAGES"] = defines.pop("SIZE_EVENTS") // _PAGE
    defines["PROXY_PORT"] = proxy_port
    defines["STATS_COUNT"] = len(abi.load().lists["STATS"])
    return [
        "-I/usr/include",
        f"-I/usr/include/{platform.machine()}-linux-gnu",
        f'-DPINS="{pins}"',
        *(f"-D{name}={value}" for name, value in sorted(defines.items())),
    ]


def _check_pins(pins: Path) -> None:
    """Refuses a pinned map of another shape, which BCC would silently open."""
    for layout in abi.load().maps.values():
        path = pins / layout.name
        if not path.exists():
            continue
        pinned = bpf.Map(bpf.open_pin(path))
        pinned.close()
        want = (layout.key.size, layout.value.size)
        have = (pinned.info.key_size, pinned.info.value_size)
        if want != have:
            raise KernelError(
                f"{path}: pinned with key and value of {have[0]} and {have[1]} bytes, this version "
                f"needs {want[0]} and {want[1]}: run the version that made it, or sluice cleanup"
            )


def _open_pinned(folder: Path, pins: Path) -> dict[str, int] | None:
    """The pinned programs, if all are there and use the maps that are pinned now."""
    if not all((folder / name).exists() for name in PROGRAMS):
        return None
    fds = {name: bpf.open_pin(folder / name) for name in PROGRAMS}
    ids = set()
    for path in pins.iterdir():
        if path.is_file():
            pinned = bpf.Map(bpf.open_pin(path))
            ids.add(pinned.info.id)
            pinned.close()
    if all(bpf.program_map_ids(fd) <= ids for fd in fds.values()):
        return fds
    for fd in fds.values():
        os.close(fd)
    return None


class _CompilerOutput:
    """Catches what clang and the verifier print to stderr, to put it into the error."""

    def __enter__(self) -> _CompilerOutput:
        sys.stderr.flush()
        self._file = tempfile.TemporaryFile()
        self._saved = os.dup(2)
        os.dup2(self._file.fileno(), 2)
        return self

    def __exit__(self, *_: object) -> None:
        ctypes.CDLL(None).fflush(None)
        os.dup2(self._saved, 2)
        os.close(self._saved)
        self._file.seek(0)
        self.text = self._file.read().decode(errors="replace")


def _compile(source: str, flags: list[str], log: Path) -> tuple[Any, dict[str, int]]:
    os.environ["BCC_KERNEL_SOURCE"] = str(bpf_directory() / "kheaders")
    try:
        from bcc import BPF
    except ImportError:
        raise KernelError("BCC is not installed: apt-get install python3-bpfcc") from None
    failed = ""
    output = _CompilerOutput()
    with output:
        try:
            module = BPF(text=source.encode(), cflags=flags)
            fds = {name: module.load_func(name.encode(), BPF.SCHED_CLS).fd for name in PROGRAMS}
        except Exception as error:  # BCC raises nothing narrower
            failed = str(error).splitlines()[0]
    if failed:
        log.write_text(output.text)
        raise KernelError(f"{failed}: the compiler's and verifier's words are in {log}")
    return module, fds


def load(pins: Path, sizes: MapSizes, proxy_port: int) -> Programs:
    """Loads all programs with their maps pinned in `pins`, or opens those loaded before."""
    source = flatten(bpf_directory())
    flags = _flags(pins, sizes, proxy_port)
    build = hashlib.sha256("\0".join([source, *flags]).encode()).hexdigest()[:16]
    folder = pins / f"programs-{build}"
    _check_pins(pins)
    pinned = _open_pinned(folder, pins)
    if pinned is not None:
        return Programs(pinned, compiled=False)
    module, fds = _compile(source, flags, pins.parent.parent / "compile.log")
    _pin_all(module, fds, folder, pins)
    copies = {name: os.dup(fd) for name, fd in fds.items()}
    module.cleanup()
    return Programs(copies, compiled=True)


def _pin_all(module: Any, fds: dict[str, int], folder: Path, pins: Path) -> None:
    """Pins the ring buffer and the programs under their final names, replacing older ones."""
    (pins / "events").unlink(missing_ok=True)
    bpf.pin(module[b"events"].map_fd, pins / "events")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700)
    for name, fd in fds.items():
        bpf.pin(fd, folder / name)


def drop_older(pins: Path, programs: Programs) -> None:
    """Unpins the programs of other builds, once nothing attached uses them any more."""
    current = {bpf.program_id(fd) for fd in programs.fds.values()}
    for folder in pins.glob("programs-*"):
        with suppress(OSError):
            fd = bpf.open_pin(folder / PROGRAMS[0])
            number = bpf.program_id(fd)
            os.close(fd)
            if number not in current:
                shutil.rmtree(folder, ignore_errors=True)
