"""`sluice demo` as its users run it: the whole of it, kept, interrupted, killed, made to fail."""

from __future__ import annotations

import os
import re
import secrets
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import pytest

from pyagent.demo import places
from pyagent.demo.attempts import (
    AFTERWARDS,
    ATTEMPTS,
    NODE,
    WORKLOADS,
    Attempt,
    Outcome,
    Prepared,
    Way,
    prepare,
)
from pyagent.demo.report import Answer, Observation, row_of
from pyagent.flowevent import End, FlowEvent
from pyagent.kernel.wiring import Wiring

ROOT = Path(__file__).parents[2]
SLUICE = str(Path(sys.executable).with_name("sluice"))
MARK = "SLUICE_DEMO_TEST"
OWN = Wiring(places.STATE).proxy_namespace("").rstrip("-")
"""Begins the names of the demo's proxies' namespaces, and is that of its agent's cgroup."""

OWN_ADDRESSES = {
    "shop/web": {4: "10.44.1.10", 6: "fd44:1::10"},
    "shop/cart": {4: "10.44.1.30", 6: "fd44:1::30"},
    "bank/teller": {4: "10.44.2.20", 6: "fd44:2::20"},
    NODE: {4: "10.44.0.1", 6: "fd44::1"},
}


class Demo:
    """Runs of the command. What they start is known by a mark in its environment."""

    def __init__(self) -> None:
        self.mark = secrets.token_hex(8)
        self.environment = os.environ | {MARK: self.mark}

    def start(self, *options: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [SLUICE, "demo", *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=self.environment,
        )

    def run(self, *options: str) -> subprocess.CompletedProcess[str]:
        with self.start(*options) as process:
            output, errors = process.communicate(timeout=90)
        return subprocess.CompletedProcess(process.args, process.returncode, output, errors)

    def processes(self) -> list[str]:
        """Command lines of everything that runs and was started by these runs."""
        found = []
        for entry in Path("/proc").iterdir():
            try:
                marked = entry.name.isdigit() and f"{MARK}={self.mark}" in _words(entry / "environ")
                if marked:
                    found.append(" ".join(_words(entry / "cmdline")))
            except OSError:
                pass  # ended meanwhile
        return found


def _words(path: Path) -> list[str]:
    return path.read_bytes().decode(errors="replace").split("\0")


def left_behind() -> list[str]:
    """What there is of a demo on this machine, processes left out."""
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    cgroups = [line.split()[4] for line in mounts if " - cgroup2 " in line]
    ours = (str(places.DIRECTORY), places.PREFIX, OWN)
    links = subprocess.run(["ip", "-o", "link"], capture_output=True, text=True, check=True)
    return [
        *(str(path) for path in (places.DIRECTORY,) if path.exists()),
        *(path.name for path in Path("/run/netns").iterdir() if path.name.startswith(ours[1:])),
        *(line for line in mounts if any(name in line for name in ours)),
        *(line for line in links.stdout.splitlines() if OWN.replace("-", " ") in line),
        *(str(path) for mount in cgroups for path in Path(mount).glob(f"{OWN}*")),
    ]


@pytest.fixture
def demo() -> Iterator[Demo]:
    """The command, with nothing of it left before and after the test."""
    assert left_behind() == []
    demo = Demo()
    yield demo
    subprocess.run([SLUICE, "demo", "--clean"], capture_output=True, timeout=60, check=True)
    assert demo.processes() == []
    assert left_behind() == []


def table(output: str) -> list[dict[str, str]]:
    """The rows of the demo's table, by column; the mark of each under "mark"."""
    header, *lines = output.split("\n\n")[0].splitlines()
    columns = ["mark", *re.split(r"\s{2,}", header.strip())]
    return [dict(zip(columns, re.split(r"\s{2,}", line), strict=True)) for line in lines]


def variation(folder: Path, *changes: tuple[str, str, str]) -> Path:
    """A copy of the examples in which a text of a file is another one: (file, old, new)."""
    shutil.copytree(places.examples(), folder)
    for file, old, new in changes:
        text = (folder / file).read_text()
        assert old in text
        (folder / file).write_text(text.replace(old, new))
    return folder


def test_every_attempt_ends_as_expected_and_nothing_is_left(demo: Demo) -> None:
    done = demo.run()
    assert done.returncode == 0, done.stderr + done.stdout
    assert demo.processes() == []
    assert left_behind() == []

    rows = table(done.stdout)
    tried = [*ATTEMPTS, *AFTERWARDS]
    attempts = [row for row in rows if row["EXPECTED"] not in ("intact", "adopted")]
    assert [(r["WHO"], r["TO WHOM"], r["WHAT"], r["SEEN"]) for r in attempts] == [
        (each.who, each.whom, each.what, each.expected.value) for each in tried
    ]
    assert {row["mark"] for row in rows} == {"ok"}
    assert [row["SEEN"] for row in rows if row not in attempts] == ["intact", "adopted"]
    for row, attempt in zip(attempts, tried, strict=True):
        check_reason(row, attempt)

    for step in ("network namespaces", "starting the servers", "in force", "sluice cleanup"):
        assert step in done.stderr
    assert "\n# sluice status\nnode " in done.stdout
    policy = done.stdout.partition("\n# sluice map dump policy\n")[2]
    assert "shop/db-from-web ingress[0]" in policy


def check_reason(row: dict[str, str], attempt: Attempt) -> None:
    """The kernel's reason, and the client's own address where the server could tell it."""
    why = row["WHY"]
    if attempt.expected is Outcome.DENIED_INGRESS:
        assert why.startswith("drop policy_ingress")
    elif attempt.expected is Outcome.DENIED_EGRESS:
        assert why.startswith("drop policy_egress")
    else:
        assert why.startswith("rule ")
        if attempt.way is not Way.PING:
            assert why.endswith(f"server saw {OWN_ADDRESSES[attempt.who][attempt.version]}")
    if attempt.expected is Outcome.HANDED_OFF:
        assert f"proxy of {attempt.whom.split('/')[0]}, 1 access log line," in why


def test_other_policies_give_wrong_rows_and_exit_status_1(demo: Demo, tmp_path: Path) -> None:
    manifests = variation(
        tmp_path / "manifests",
        ("policies.yaml", "policyTypes: [Egress]", "policyTypes: [Ingress]"),
        ("policies.yaml", "  egress:\n", "  ingress:\n"),
        ("policies.yaml", "- to: [{podSelector: {matchLabels: {app: web}}}]", "- {}"),
        ("namespaces.yaml", "metadata: {name: bank}\nspec:", "metadata: {name: bank}\nspec: {}\n#"),
        ("namespaces.yaml", "#\n  failureMode: closed\n  http: [{port: 80}]", "#"),
    )
    done = demo.run("--manifests", str(manifests))
    assert done.returncode == 1
    wrong = {
        (r["WHO"], r["WHAT"][:8]): r["SEEN"] for r in table(done.stdout) if r["mark"] == "WRONG"
    }
    assert wrong == {
        ("shop/cart", "TCP 5432"): Outcome.DENIED_INGRESS.value,
        ("shop/cart", "UDP 5353"): Outcome.DENIED_INGRESS.value,
        ("bank/teller", "HTTP/1.1"): Outcome.PASSED.value,
        ("bank/teller", "download"): "not handed off",
        ("bank/teller", "HTTP/2 8"): Outcome.PASSED.value,
    }
    assert done.stderr.splitlines()[-1].startswith("sluice: not as expected: 10 of the rows")
    assert demo.processes() == []
    assert left_behind() == []


def test_a_kept_demo_runs_on_until_it_is_ended(demo: Demo) -> None:
    done = demo.run("--keep")
    assert done.returncode == 0, done.stderr
    typed = [line.strip() for line in done.stdout.splitlines() if line.startswith("  ")]
    requests = [line for line in typed if " curl " in line and "/metrics" not in line]
    assert len(requests) >= 5
    statuses = set()
    for line in requests:
        command, _, told = line.partition("  # ")
        tried = subprocess.run(shlex.split(command), capture_output=True, text=True, timeout=10)
        assert tried.returncode == (28 if told.startswith("denied") else 0), line
        statuses.add(tried.returncode)
    assert statuses == {0, 28}
    [metrics] = [line for line in typed if "/metrics" in line]
    scraped = subprocess.run(shlex.split(metrics), capture_output=True, text=True, timeout=10)
    assert "sluice_forward_count_total" in scraped.stdout
    [status] = [line for line in typed if line.endswith(" status")]
    environment = demo.environment | {"SLUICE_CONFIG": str(places.CONFIG)}
    assert f"export SLUICE_CONFIG={places.CONFIG}" in typed
    subprocess.run(shlex.split(status), env=environment, capture_output=True, check=True)

    again = demo.run()
    assert again.returncode == 1
    assert again.stderr == (
        "sluice: a demo was kept and still runs: end it with sluice demo --clean\n"
    )
    assert demo.processes() != []
    assert demo.run("--clean").returncode == 0
    assert demo.processes() == []
    assert left_behind() == []


@pytest.mark.parametrize(
    ("number", "step"),
    [
        (signal.SIGHUP, "starting the servers"),
        (signal.SIGTERM, f"{len(ATTEMPTS)} attempts"),
        (signal.SIGINT, "a download"),
    ],
)
def test_an_interrupted_demo_leaves_nothing(demo: Demo, number: signal.Signals, step: str) -> None:
    with demo.start() as process:
        assert process.stderr is not None
        assert any(line.startswith(step) for line in process.stderr)
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert errors.splitlines()[-1] == "sluice: interrupted"
    assert demo.processes() == []
    assert left_behind() == []


def test_a_killed_demo_is_cleared_away_by_the_next(demo: Demo) -> None:
    with demo.start() as process:
        assert process.stderr is not None
        assert any(line.startswith("in force") for line in process.stderr)
        busy = demo.run()
        process.kill()
        process.communicate(timeout=60)
    assert busy.returncode == 1
    assert busy.stderr == "sluice: another sluice demo is at work: wait until it has ended\n"
    assert left_behind() != []
    done = demo.run()
    assert done.returncode == 0, done.stderr
    assert "clearing away what is left of an earlier demo" in done.stderr
    assert demo.processes() == []
    assert left_behind() == []


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("name: teller", "name: cashier", "the demo needs a workload bank/teller"),
        (', "fd44:1::30"', "", "workload shop/cart: the demo needs IPv4 and IPv6"),
        ("sluice-demo-shop-db", "elsewhere", "workload shop/db: the demo needs spec.netns"),
        ("sluice-demo-shop-db", "sluice-demo-node", "shop/db: /run/netns/sluice-demo-node is the"),
        ("addresses:", "adresses:", "document 1: spec.addresses: is required"),
    ],
)
def test_manifests_that_do_not_fit_are_refused_before_anything_is_made(
    demo: Demo, tmp_path: Path, old: str, new: str, complaint: str
) -> None:
    manifests = variation(tmp_path / "manifests", ("workloads.yaml", old, new))
    done = demo.run("--manifests", str(manifests))
    assert done.returncode == 1
    assert complaint in done.stderr.splitlines()[0]
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert left_behind() == []


def test_without_root_one_line_says_so(without_root: tuple[str, ...]) -> None:
    command = [*without_root, SLUICE, "demo"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert done.returncode == 1
    assert done.stderr == "sluice: privileges: not root: run it as root\n"


# What a row makes of contradictions, which a data plane that works never shows


def observation(expected: Outcome, verdict: str = "allow", reason: str = "none") -> Observation:
    """A request from shop/cart to shop/web that was answered, as kernel and client tell it."""
    attempt = Attempt("shop/cart", "shop/web", Way.HTTP1, 80, 4, expected)
    made = prepared(attempt)
    ends = [
        End(address, port, 300, "", None)
        for address, port in (
            (made.flow.source, made.flow.source_port),
            (made.flow.destination, made.flow.destination_port),
        )
    ]
    event = FlowEvent(
        time=0.0,
        type={"allow": "policy", "handoff": "handoff", "deny": "drop"}[verdict],
        verdict=verdict,
        reason=reason,
        direction="egress",
        protocol="TCP",
        source=ends[0],
        destination=ends[1],
        rule=None,
        tenant="shop" if verdict == "handoff" else None,
        ifindex=1,
        length=74,
        tcp_flags="SYN",
    )
    logged = ("HTTP/1.1",) if verdict == "handoff" else ()
    answer = Answer(True, 0.01, str(made.flow.source), ("HTTP/1.1", "HTTP/1.1"))
    return Observation(attempt, made.flow, answer, event, logged)


def prepared(attempt: Attempt) -> Prepared:
    own = {4: ip_address("10.0.0.1"), 6: ip_address("fd00::1")}
    other = {4: ip_address("10.0.0.2"), 6: ip_address("fd00::2")}
    return prepare(attempt, 20_001, {attempt.who: own, attempt.whom: other})


def test_a_row_is_right_when_all_agree() -> None:
    row = row_of(observation(Outcome.HANDED_OFF, "handoff"))
    assert row.ok
    assert row.why == "no rule, proxy of shop, 1 access log line, server saw 10.0.0.1"
    assert row_of(observation(Outcome.PASSED)).ok


@pytest.mark.parametrize("verdict", ["handoff", "allow"])
def test_a_row_is_wrong_when_anybody_contradicts(verdict: str) -> None:
    right = observation(Outcome.HANDED_OFF if verdict == "handoff" else Outcome.PASSED, verdict)
    assert row_of(right).ok
    silent = Answer(False, 1.0, error="timed out")
    contradictions = [
        (replace(right, event=None), "an answer, but no event"),
        (replace(right, logged=(*right.logged, "HTTP/2")), f"{len(right.logged) + 1} lines"),
        (
            replace(right, answer=replace(right.answer, client="10.0.0.9")),
            "the server saw 10.0.0.9",
        ),
        (replace(right, answer=replace(right.answer, protocols=("HTTP/2", "HTTP/1.1"))), "spoke"),
        (replace(right, answer=silent), "no answer (timed out)"),
        (replace(right, answer=silent, event=None), "no answer (timed out)"),
        (observation(right.attempt.expected, "deny", "policy_ingress"), "an answer, but dropped"),
    ]
    for seen, words in contradictions:
        row = row_of(seen)
        assert not row.ok
        assert row.seen.startswith(words)


def test_silence_for_another_reason_is_no_denial_by_policy() -> None:
    seen = observation(Outcome.DENIED_INGRESS, "deny", "proxy_not_ready")
    row = row_of(replace(seen, answer=Answer(False, 0.9, error="timed out")))
    assert not row.ok
    assert (row.seen, row.why) == ("no answer (timed out)", "drop proxy_not_ready")


def test_the_examples_have_every_workload_that_is_used() -> None:
    text = (places.examples() / "workloads.yaml").read_text()
    for workload in WORKLOADS:
        namespace, name = workload.split("/")
        assert f"{{name: {name}, namespace: {namespace}," in text
