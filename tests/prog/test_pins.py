"""The bpffs is mounted once, whatever the state directory is called."""

from __future__ import annotations

from pathlib import Path

import pytest

from pyagent.kernel import pins


@pytest.mark.parametrize("name", ["state", "a state", "tab\there", "back\\slash", "ünder"])
def test_it_is_mounted_once(tmp_path: Path, name: str) -> None:
    state = tmp_path / name
    try:
        first = pins.mount(state)
        (first / "mark").mkdir()
        assert pins.mount(state) == first
        assert (first / "mark").is_dir()
    finally:
        assert pins.unmount(state)
    assert not pins.unmount(state)
