"""What the probe says of machines that lack something, laid out as folders, and of this one."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import pytest

from pyagent.errors import KernelError
from pyagent.kernel import probe_bpf
from pyagent.kernel.probe import Finding, Host, Status, findings, require

# /proc/self/status of a process with all capabilities, of one without CAP_BPF (bit 39).
ROOT = "Name:\tx\nUid:\t0\t0\t0\t0\nCapEff:\t000001ffffffffff\n"
ROOT_WITHOUT_BPF = "Uid:\t0\t0\t0\t0\nCapEff:\t0000017fffffffff\n"
USER = "Uid:\t1000\t1000\t1000\t1000\nCapEff:\t0000000000000000\n"
CGROUP2 = "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"
CGROUP1 = "33 32 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n"

COMPLETE = {
    "proc/self/status": ROOT,
    "proc/self/mountinfo": CGROUP1 + CGROUP2,
    "proc/sys/kernel/osrelease": "6.12.9-amd64\n",
    "proc/filesystems": "nodev\tsysfs\nnodev\tbpf\n\text4\n",
    "proc/cgroups": "#subsys_name\thierarchy\ncpu\t0\t9\t1\nmemory\t0\t9\t1\n",
    "proc/sys/net/ipv4/ip_forward": "1\n",
    "proc/sys/net/ipv6/conf/all/forwarding": "1\n",
    "proc/sys/net/ipv4/conf/all/rp_filter": "2\n",
    "sys/fs/cgroup/cgroup.controllers": "cpuset cpu io memory pids\n",
    "sys/kernel/btf/vmlinux": "\0bpf_sk_assign_tcp_reqsk\0",
    "usr/include/linux/bpf.h": "",
}


def machine(folder: Path, changes: Mapping[str, str | None] = MappingProxyType({})) -> Host:
    """A complete machine with some files changed or, with None, left out."""
    assert changes.keys() <= COMPLETE.keys()
    for path, text in {**COMPLETE, **changes}.items():
        if text is not None:
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(text)
    return Host(folder)


def found(host: Host, name: str) -> Finding:
    [finding] = [finding for finding in findings(host) if finding.name == name]
    return finding


def test_a_complete_machine_can_start_the_agent(tmp_path: Path) -> None:
    require(machine(tmp_path))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"proc/self/status": USER}, "privileges: not root: run it as root"),
        (
            {"proc/self/status": ROOT_WITHOUT_BPF},
            "privileges: root without CAP_BPF: run it as root",
        ),
        ({"proc/sys/kernel/osrelease": "5.14.21"}, "kernel: 5.14.21: needs 5.15 or newer"),
        ({"proc/sys/kernel/osrelease": None}, "kernel: unknown: needs 5.15 or newer"),
        (
            {"sys/kernel/btf/vmlinux": None},
            "BTF: /sys/kernel/btf/vmlinux is not there: needs a kernel with CONFIG_DEBUG_INFO_BTF",
        ),
        (
            {"proc/filesystems": "nodev\tsysfs\nnodev\tbpfs\n"},
            "bpffs: /proc/filesystems has no bpf: needs a kernel with CONFIG_BPF_SYSCALL",
        ),
        (
            {"proc/self/mountinfo": CGROUP1},
            "cgroup v2: not mounted: mount it: mount -t cgroup2 none /sys/fs/cgroup",
        ),
    ],
)
def test_what_is_missing_stops_the_agent_with_one_line(
    tmp_path: Path, changes: dict[str, str | None], message: str
) -> None:
    with pytest.raises(KernelError) as refused:
        require(machine(tmp_path, changes))
    assert str(refused.value) == message


@pytest.mark.parametrize("release", ["5.15.0-91-generic", "6.1.0-25-amd64", "10.0"])
def test_newer_kernels_are_new_enough(tmp_path: Path, release: str) -> None:
    require(machine(tmp_path, {"proc/sys/kernel/osrelease": release}))


@pytest.mark.parametrize(
    ("name", "changes", "detail", "cost"),
    [
        (
            "late handoff",
            {"sys/kernel/btf/vmlinux": "\0bpf_sk_assign_tcp_reqsk_other\0"},
            "bpf_sk_assign_tcp_reqsk is not in the kernel's BTF",
            "no late handoff: only declared ports go to a proxy (kernel 6.9 has it)",
        ),
        (
            "cgroup cpu",
            {
                "sys/fs/cgroup/cgroup.controllers": "cpuset memory\n",
                "proc/cgroups": "cpuset\t3\t1\t1\ncpu\t2\t9\t1\n",
            },
            "only in cgroup v1",
            "no cpu limit for proxies through cgroup v2",
        ),
        (
            "cgroup memory",
            {"sys/fs/cgroup/cgroup.controllers": "cpuset cpu\n"},
            "not there",
            "no memory limit for proxies through cgroup v2",
        ),
        (
            "IPv4 forwarding",
            {"proc/sys/net/ipv4/ip_forward": "0\n"},
            "net.ipv4.ip_forward=0",
            "workloads reach nothing beyond this node over IPv4: sysctl net.ipv4.ip_forward=1",
        ),
        (
            "IPv6 forwarding",
            {"proc/sys/net/ipv6/conf/all/forwarding": None},
            "net.ipv6.conf.all.forwarding=?",
            "workloads reach nothing beyond this node over IPv6: "
            "sysctl net.ipv6.conf.all.forwarding=1",
        ),
        (
            "rp_filter",
            {"proc/sys/net/ipv4/conf/all/rp_filter": "1\n"},
            "net.ipv4.conf.all.rp_filter=1 (strict)",
            "the node's stack may drop what a proxy sends for a client: "
            "sysctl net.ipv4.conf.all.rp_filter=0",
        ),
    ],
)
def test_what_is_optional_is_degraded_and_names_its_cost(
    tmp_path: Path, name: str, changes: dict[str, str | None], detail: str, cost: str
) -> None:
    assert found(machine(tmp_path / "all"), name).status is Status.OK
    host = machine(tmp_path / "less", changes)
    assert found(host, name) == Finding(name, Status.DEGRADED, detail, cost)
    require(host)


def test_headers_are_required_to_compile(tmp_path: Path) -> None:
    host = machine(tmp_path, {"usr/include/linux/bpf.h": None})
    assert found(host, "UAPI headers").status is Status.MISSING


def test_the_kernel_is_not_asked_without_root(tmp_path: Path) -> None:
    host = machine(tmp_path, {"proc/self/status": USER})
    assert not [finding for finding in findings(host) if finding.name.startswith("map ")]


def test_a_finding_has_a_cost_exactly_if_something_is_lost(tmp_path: Path) -> None:
    for finding in findings(Host(tmp_path)):
        assert bool(finding.cost) == (finding.status is not Status.OK), finding


def test_bpf_refuses_what_does_not_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(probe_bpf.HELPERS, "bpf_of_the_future", 100_000)
    monkeypatch.setitem(probe_bpf.HELPERS, "bpf_msg_redirect_map", 60)  # for sk_msg only
    monkeypatch.setitem(probe_bpf.MAPS, "map_of_the_future", (1000, 4, 4, 1, 0))
    monkeypatch.setitem(probe_bpf.PROGRAM_TYPES, "program_of_the_future", 1000)
    assert probe_bpf.helper("bpf_of_the_future")
    assert probe_bpf.helper("bpf_msg_redirect_map")
    assert probe_bpf.map_type("map_of_the_future")
    assert probe_bpf.program_type("program_of_the_future")
    if os.geteuid() == 0:
        assert probe_bpf.helper("bpf_redirect_peer") is None
        assert probe_bpf.map_type("ringbuf") is None


def test_tools_that_are_not_installed_are_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = machine(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    for tool, cost in (
        ("ip", "no demo: apt-get install iproute2"),
        ("setpriv", "proxies cannot be started: apt-get install util-linux"),
    ):
        assert found(host, tool) == Finding(tool, Status.MISSING, "not installed", cost)


def test_the_bcc_of_another_project_does_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "other" / "bcc").mkdir(parents=True)
    (tmp_path / "other" / "bcc" / "__init__.py").touch()
    host = machine(tmp_path / "machine")
    assert found(host, "BCC").status is Status.OK
    monkeypatch.syspath_prepend(str(tmp_path / "other"))
    bcc = sys.modules.pop("bcc", None)
    try:
        assert found(host, "BCC").status is Status.MISSING
    finally:
        if bcc is not None:
            sys.modules["bcc"] = bcc
