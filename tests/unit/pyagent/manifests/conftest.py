"""Manifests written into a directory of the test's own and loaded from there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pyagent.errors import InvalidState
from pyagent.manifests import load_directory
from pyagent.model import Snapshot

Load = Callable[..., Snapshot]
Refused = Callable[..., list[str]]


def _write(folder: Path, text: str | bytes, files: dict[str, str | bytes]) -> None:
    for name, content in ({"a.yaml": text} if text else files).items():
        data = content.encode() if isinstance(content, str) else content
        (folder / name).write_bytes(data)


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Writes `a.yaml`, or the files given by name, and returns the snapshot."""

    def load(text: str | bytes = "", files: dict[str, str | bytes] | None = None) -> Snapshot:
        _write(tmp_path, text, files or {})
        return load_directory(tmp_path)

    return load


@pytest.fixture
def refused(tmp_path: Path) -> Refused:
    """As `load`, but returns the lines of the refusal, with the directory's path taken out."""

    def refused(text: str | bytes = "", files: dict[str, str | bytes] | None = None) -> list[str]:
        _write(tmp_path, text, files or {})
        with pytest.raises(InvalidState) as caught:
            load_directory(tmp_path)
        lines = [str(problem) for problem in caught.value.problems]
        assert all(line.isprintable() for line in lines)
        return [line.replace(f"{tmp_path}/", "") for line in lines]

    return refused
