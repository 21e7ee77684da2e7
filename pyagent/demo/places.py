"""Where the demo lives on the machine: paths, names, and how its processes are run.

Used by `world`, `remains` and the command line. The names are fixed, so that whatever a killed
demo has left behind is found again without a record.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from ipaddress import ip_address
from pathlib import Path

import pyagent
from pyagent.errors import SluiceError
from pyagent.kernel.netlink import namespace_path
from pyagent.model import Address

DIRECTORY = Path("/run/sluice-demo")
CONFIG = DIRECTORY / "agent.yaml"
MANIFESTS = DIRECTORY / "manifests"
STATE = DIRECTORY / "state"
RUN = DIRECTORY / "run"
AGENT_LOG = DIRECTORY / "agent.log"
KEPT = DIRECTORY / "kept"
"""There while a demo runs on by its user's wish."""

PREFIX = "sluice-demo-"
"""Begins the names of all network namespaces of the demo, which belong to nobody else."""

NODE_NAMESPACE = PREFIX + "node"
NODE_ADDRESSES: dict[int, Address] = {4: ip_address("10.44.0.1"), 6: ip_address("fd44::1")}
METRICS = "127.0.0.1:9464"

SERVER = "pyagent.demo.server"

_IMPORTS = Path(pyagent.__file__).resolve().parents[1]
"""Processes start here: `python -m` imports from where it starts, the user's folder otherwise."""


def examples() -> Path:
    """The folder of the demo's manifests: inside an installed package, beside it in a checkout."""
    package = Path(pyagent.__file__).resolve().parent
    for folder in (package / "examples", package.parent / "examples"):
        if (folder / "workloads.yaml").is_file():
            return folder
    raise SluiceError(f"there are no examples beside {package}: name a directory with --manifests")


def sluice() -> str:
    """The command `sluice` of this installation."""
    beside = Path(sys.executable).with_name("sluice")
    found = str(beside) if beside.is_file() else shutil.which("sluice")
    if found is None:
        raise SluiceError("the command sluice is not on PATH: install sluice again")
    return found


def inside(namespace: str, *command: str) -> list[str]:
    """The command, put into a network namespace with the mounts of this one."""
    return ["nsenter", f"--net={namespace_path(namespace)}", "--", *command]


def environment() -> dict[str, str]:
    """What every process of the demo finds in its environment."""
    return os.environ | {"SLUICE_CONFIG": str(CONFIG)}


def run(namespace: str, command: Sequence[str], seconds: float) -> subprocess.CompletedProcess[str]:
    """Runs a command to its end; SluiceError when it does not come in time or cannot be run.

    Ctrl-C does not reach it, so that a clean-up is never cut short.
    """
    try:
        return subprocess.run(
            inside(namespace, *command),
            capture_output=True,
            text=True,
            errors="replace",
            timeout=seconds,
            stdin=subprocess.DEVNULL,
            cwd=_IMPORTS,
            env=environment(),
            start_new_session=True,
        )
    except subprocess.TimeoutExpired:
        raise SluiceError(f"{command[0]} has not ended within {seconds:g} s") from None
    except OSError as error:
        raise SluiceError(f"{error.filename}: {error.strerror}") from None


def start(namespace: str, command: Sequence[str], output: Path | int) -> subprocess.Popen[bytes]:
    """Starts a command that may outlive the demo; `output` is a file to append to, or a PIPE."""
    sink = output if isinstance(output, int) else os.open(output, _APPEND, 0o600)
    try:
        return subprocess.Popen(
            inside(namespace, *command),
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.DEVNULL if isinstance(output, int) else sink,
            cwd=_IMPORTS,
            env=environment(),
            start_new_session=True,
        )
    finally:
        if sink != output:
            os.close(sink)


_APPEND = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
