"""`sluice validate`, as a user runs it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

SLUICE = (sys.executable, "-c", "from pyagent.cli.main import main; main()")

GOOD = """\
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: sluice.dev/v1alpha1
kind: Workload
metadata: {name: web-1, namespace: shop, labels: {app: web}}
spec: {netns: /run/netns/web-1, addresses: [10.1.0.2]}
---
apiVersion: sluice.dev/v1alpha1
kind: Workload
metadata: {name: web-2, namespace: shop, labels: {app: web}}
spec: {netns: /run/netns/web-2, addresses: [10.1.0.3]}
"""
BAD = """\
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: sluice.dev/v1alpha1
kind: Workload
metadata: {name: web-1, namespace: shop}
spec: {netns: /run/netns/web-1, addresses: [10.1.0.2], colour: red}
"""


def validate(directory: Path) -> subprocess.CompletedProcess[str]:
    command = [*SLUICE, "validate", str(directory)]
    environment = {**os.environ, "SLUICE_DEBUG": ""}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)


def test_counts_what_is_valid(tmp_path: Path) -> None:
    (tmp_path / "shop.yaml").write_text(GOOD)
    done = validate(tmp_path)
    counts = "1 namespace, 2 workloads, 0 network policies, 0 tenants"
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{tmp_path}: valid: {counts}\n"


def test_each_problem_has_its_line_and_the_exit_status_is_1(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(BAD)
    (tmp_path / "b.yaml").write_text("kind: [\n")
    done = validate(tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    first, second = done.stderr.splitlines()
    assert first.startswith("sluice: ")
    assert "a.yaml: document 2: spec: unknown field 'colour'" in first
    assert "b.yaml: document 1: " in second


def test_a_directory_that_is_not_there_is_refused_in_one_line(tmp_path: Path) -> None:
    done = validate(tmp_path / "nothing")
    assert (done.returncode, done.stdout) == (1, "")
    [line] = done.stderr.splitlines()
    assert line.startswith("sluice: ")
    assert "internal error" not in line
    assert str(tmp_path / "nothing") in line
