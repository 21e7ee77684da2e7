"""The skip policy of tests/conftest.py, on small test folders of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

CONFTEST = Path(__file__).parents[1] / "conftest.py"


def run(
    root: Path, test: str, *prefix: str, folder: str = "unit", ci: str = ""
) -> subprocess.CompletedProcess[str]:
    """Run pytest on one test file beside a copy of the policy."""
    (root / folder).mkdir()
    shutil.copy(CONFTEST, root / "conftest.py")
    (root / folder / "test_it.py").write_text(test)
    (root / "pytest.ini").write_text("[pytest]\n")
    options = ["-rs", "-p", "no:cacheprovider", folder]
    command = [*prefix, sys.executable, "-m", "pytest", *options]
    environment = {**os.environ, "CI": ci, "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        command, cwd=root, env=environment, capture_output=True, text=True, timeout=60
    )


def test_skip_in_ci_fails_the_run(tmp_path: Path) -> None:
    test = "import pytest\ndef test_a(): pytest.skip('no envoy')\n"
    done = run(tmp_path, test, ci="true")
    assert done.returncode == 1, done.stdout
    assert "SKIP NOT ALLOWED unit/test_it.py::test_a: " in done.stdout
    assert "1 skipped" in done.stdout.splitlines()[-1]


def test_skip_of_a_whole_file_fails_the_run(tmp_path: Path) -> None:
    test = "import pytest\npytest.importorskip('no_such_module')\n"
    done = run(tmp_path, test, ci="true")
    assert done.returncode == 1, done.stdout
    assert "SKIP NOT ALLOWED unit/test_it.py: " in done.stdout


def test_expected_failure_fails_the_run(tmp_path: Path) -> None:
    test = "import pytest\n@pytest.mark.xfail(reason='slow')\ndef test_a(): assert False\n"
    done = run(tmp_path, test, ci="true")
    assert done.returncode == 1, done.stdout
    assert "SKIP NOT ALLOWED unit/test_it.py::test_a: slow" in done.stdout


def test_run_without_skips_passes(tmp_path: Path) -> None:
    done = run(tmp_path, "def test_a(): pass\n")
    assert done.returncode == 0, done.stdout
    assert "SKIP NOT ALLOWED" not in done.stdout


def test_without_root_the_tests_that_need_it_are_counted_as_skipped(
    tmp_path: Path, without_root: tuple[str, ...]
) -> None:
    done = run(tmp_path, "def test_a(): assert False\n", *without_root, folder="prog")
    assert done.returncode == 0, done.stdout
    assert "needs root: run make test" in done.stdout
    assert "1 skipped" in done.stdout.splitlines()[-1]
