"""`sluice check`, as a user runs it."""

from __future__ import annotations

import json
import os
import subprocess
import sys

SLUICE = (sys.executable, "-c", "from pyagent.cli.main import main; main()")


def check(*prefix: str, options: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    command = [*prefix, *SLUICE, "check", *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_without_root_says_so_in_one_line_and_exits_1(without_root: tuple[str, ...]) -> None:
    done = check(*without_root)
    assert done.returncode == 1
    assert done.stderr == "sluice: the agent cannot run here: privileges\n"
    row = done.stdout.splitlines()[1].split(maxsplit=2)
    assert row[:2] == ["privileges", "missing"]
    assert "run it as root" in row[2]


def test_json_names_status_and_cost_of_everything(without_root: tuple[str, ...]) -> None:
    done = check(*without_root, options=("-o", "json"))
    findings = {row["check"]: row for row in json.loads(done.stdout)}
    assert findings["privileges"]["status"] == "missing"
    assert findings["BTF"]["status"] == "ok"
    assert all(bool(row["cost"]) == (row["status"] != "ok") for row in findings.values())


def test_the_exit_status_is_that_of_what_is_missing() -> None:
    done = check(options=("-o", "json"))
    missing = [row["check"] for row in json.loads(done.stdout) if row["status"] == "missing"]
    if os.geteuid() == 0:
        assert missing == []  # whoever can run these tests can run the agent
    assert done.returncode == (1 if missing else 0)
    assert done.stderr == (
        f"sluice: the agent cannot run here: {', '.join(missing)}\n" if missing else ""
    )
