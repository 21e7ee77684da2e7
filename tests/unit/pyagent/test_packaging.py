"""What is installed: every module, and the C sources where the loader looks for them."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from pyagent.bpfsource import bpf_directory

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel of the checkout, built from a copy of what goes into it."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in ("bpf", "examples", "l7proxy", "pyagent", "pyproject.toml", "LICENSE", "README.md"):
        subprocess.run(["cp", "-r", ROOT / name, source], check=True)
    options = ["-qq", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder)]
    command = [sys.executable, "-m", "pip", "wheel", *options, str(source)]
    subprocess.run(command, check=True, timeout=100)
    [built] = folder.glob("sluice-*.whl")
    return built


def test_the_wheel_has_every_module_and_every_source(wheel: Path) -> None:
    modules = [*(ROOT / "pyagent").rglob("*.py"), *(ROOT / "l7proxy").rglob("*.py")]
    expected = {str(path.relative_to(ROOT)) for path in modules}
    sources = [path for path in (ROOT / "bpf").rglob("*") if path.suffix in (".c", ".h")]
    assert sources
    expected |= {f"pyagent/{path.relative_to(ROOT)}" for path in sources}
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}
    expected |= {f"pyagent/{path.relative_to(ROOT)}" for path in (ROOT / "examples").glob("*.yaml")}
    assert packed == expected | {"pyagent/bpf/LICENSE"}


def test_the_sources_are_found_in_an_installed_package(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    code = "from pyagent.bpfsource import bpf_directory; print(bpf_directory())"
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert found.stdout.strip() == str(tmp_path / "pyagent" / "bpf"), found.stderr


def test_the_sources_are_found_in_a_checkout() -> None:
    assert bpf_directory() == ROOT / "bpf"


def test_the_lock_names_no_package_host() -> None:
    lock = (ROOT / "requirements.lock").read_text()
    assert "://" not in lock
    assert "--index" not in lock
    assert "--find-links" not in lock
