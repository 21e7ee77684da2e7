"""Bringing an Envoy to life: the chain of standard tools that confine it, each replacing itself.

Used by `process`. sh enters the cgroup and sets limits, nsenter enters the network namespace,
setpriv gives up root; the process that Envoy ends up in is the one that was spawned.
"""

from __future__ import annotations

import functools
import os
import resource
import signal
import subprocess
from pathlib import Path

from l7proxy import files
from l7proxy.errors import ProxyFailure
from l7proxy.spec import ProxySpec

NOFILE = 65536
"""Open files wanted: two for each connection, and more."""

# Connections that a changed listener left behind are cut after this long.
DRAIN_SECONDS = 3600

# The log's format is Envoy's own, without source lines; escaped, so that a message is one line.
_LOG_FORMAT = "[%Y-%m-%d %T.%e][%l][%n] %v"

# Arguments: cgroup folder or "", open files, directory, command. No memory goes into a core dump
# even where a handler takes those that a limit of 0 does not stop (core(5), coredump_filter).
_SETUP = """set -eu
umask 077
ulimit -c 0
ulimit -n "$2"
echo 0 > /proc/self/coredump_filter || :
if [ -n "$1" ]; then echo $$ > "$1/cgroup.procs"; fi
cd "$3"
shift 3
exec "$@"
"""


def command(spec: ProxySpec, envoy: str, nofile: int) -> list[str]:
    """The whole command line; `envoy` is the binary's real path."""
    envoy_itself = [
        envoy,
        *("--config-path", spec.bootstrap_path),
        *("--concurrency", str(spec.concurrency)),
        "--disable-hot-restart",
        "--reject-unknown-dynamic-fields",
        *("--drain-strategy", "immediate"),
        *("--drain-time-s", str(DRAIN_SECONDS)),
        *("--file-flush-interval-msec", "1000"),
        *("--log-level", "warning"),
        *("--log-format", _LOG_FORMAT),
        "--log-format-escaped",
    ]
    # CAP_NET_RAW suffices for IP_TRANSPARENT, which is all that Envoy needs of root (ip(7)).
    only = "-all,+net_raw"
    confined = [
        "setpriv",
        *("--reuid", str(spec.uid)),
        *("--regid", str(spec.gid)),
        "--clear-groups",
        "--no-new-privs",
        *("--inh-caps", only),
        *("--ambient-caps", only),
        *("--bounding-set", only),
        "--",
    ]
    setup = ["/bin/sh", "-c", _SETUP, "sluice-proxy", spec.cgroup or "", str(nofile)]
    return [*setup, spec.directory, "nsenter", f"--net={spec.netns}", *confined, *envoy_itself]


def open_files() -> int:
    """How many open files to allow: what is wanted, or what the caller itself may give."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return NOFILE if hard == resource.RLIM_INFINITY else min(NOFILE, hard)


def check(spec: ProxySpec) -> str:
    """Refuse a spec that cannot be started, naming what is missing; the binary's real path."""
    envoy = os.path.realpath(spec.envoy)
    if not Path(envoy).is_file() or not os.access(envoy, os.X_OK):
        raise ProxyFailure(f"Envoy binary {spec.envoy} does not exist or cannot be run")
    if not Path(spec.netns).exists():
        raise ProxyFailure(f"network namespace {spec.netns} does not exist")
    if spec.cgroup is not None and not Path(spec.cgroup, "cgroup.procs").exists():
        raise ProxyFailure(f"cgroup {spec.cgroup} does not exist")
    if len(os.fsencode(spec.admin_path)) > 107:  # unix(7), sun_path
        raise ProxyFailure(f"{spec.admin_path} is too long for a unix socket")
    return envoy


def version(envoy: str) -> str:
    """What the binary calls itself, such as "1.40.0"."""
    return _version(envoy, Path(envoy).stat().st_mtime_ns)


@functools.lru_cache(maxsize=8)
def _version(envoy: str, _changed: int) -> str:
    try:
        output = subprocess.run(
            [envoy, "--version"], capture_output=True, text=True, timeout=10, check=True
        ).stdout
        # "envoy  version: COMMIT/1.40.0/Clean/RELEASE/BoringSSL"
        return output.split("version:")[1].split("/")[1]
    except (OSError, subprocess.SubprocessError, IndexError) as error:
        raise ProxyFailure(f"{envoy} is not an Envoy that runs here") from error


def spawn(arguments: list[str], log: str) -> tuple[int, int]:
    """Start the command in a session of its own; its pid, and where in the log it begins.

    Nothing ties it to the caller: no pipe, no terminal, no signal at the caller's death.
    """
    output = files.open_log(log, keep=1024 * 1024)
    try:
        begins = os.fstat(output).st_size
        pid = os.posix_spawn(
            arguments[0],
            arguments,
            {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_DUP2, output, 1),
                (os.POSIX_SPAWN_DUP2, output, 2),
            ],
            setsid=True,
            setsigmask=[],
            setsigdef=[signal.SIGPIPE, signal.SIGXFSZ],  # which Python ignores
        )
    except OSError as error:
        raise ProxyFailure(f"cannot start {arguments[0]}: {error.strerror}") from error
    finally:
        os.close(output)
    return pid, begins
