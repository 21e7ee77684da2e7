"""Which files are read, and what becomes of those that cannot be."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pyagent.errors import InvalidState
from pyagent.manifests import load_directory
from pyagent.manifests.files import MAX_BYTES
from pyagent.model import Snapshot

Load = Callable[..., Snapshot]
Refused = Callable[..., list[str]]


def namespace(name: str) -> str:
    return f"{{apiVersion: v1, kind: Namespace, metadata: {{name: {name}}}}}"


def test_only_yaml_files_right_inside_are_read(load: Load, tmp_path: Path) -> None:
    (tmp_path / "sub.yaml").mkdir()
    (tmp_path / "sub.yaml" / "a.yaml").write_text(namespace("inner"))
    ignored = (
        ".a.yaml",
        "a.yaml~",
        "#a.yaml#",
        "#a.yaml",
        "~a.yaml",
        "a.yaml.swp",
        "a.json",
        "4913",
    )
    snapshot = load(
        files={name: namespace("ignored") for name in ignored}
        | {"a.yaml": namespace("a"), "b.yml": namespace("b")}
    )
    assert sorted(snapshot.namespaces) == ["a", "b"]


def test_a_missing_directory(tmp_path: Path) -> None:
    with pytest.raises(InvalidState) as caught:
        load_directory(tmp_path / "nowhere")
    assert str(caught.value) == (
        f"{tmp_path}/nowhere: cannot read the directory: No such file or directory"
    )


def test_a_file_in_place_of_the_directory(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("")
    with pytest.raises(InvalidState) as caught:
        load_directory(tmp_path / "a.yaml")
    assert str(caught.value) == f"{tmp_path}/a.yaml: cannot read the directory: Not a directory"


def test_text_must_be_utf_8(refused: Refused) -> None:
    assert refused(files={"a.yaml": b"a: b\nc: \xff\n", "b.yaml": b"\xff\xfea\0"}) == [
        "a.yaml: line 2: not UTF-8 text (byte 0xff)",
        "b.yaml: line 1: not UTF-8 text (byte 0xff)",
    ]


def test_a_byte_order_mark_is_allowed(load: Load) -> None:
    assert "a" in load(b"\xef\xbb\xbf" + namespace("a").encode()).namespaces


def test_what_is_no_file_is_told_and_never_waited_for(refused: Refused, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "link.yaml").symlink_to("gone.yaml")
    (tmp_path / "loop.yaml").symlink_to("loop.yaml")
    assert refused() == [
        "link.yaml: is a link to a file that does not exist",
        "loop.yaml: cannot be read: Too many levels of symbolic links",
        "pipe.yaml: is not a regular file",
    ]


def test_a_file_may_not_be_huge(refused: Refused, tmp_path: Path) -> None:
    with (tmp_path / "a.yaml").open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    assert refused() == ["a.yaml: is larger than 64 MiB"]


def test_a_file_without_permission(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("")
    path.chmod(0)
    # Root may read everything, so a child gives its rights up, after the imports.
    script = (
        "import os, sys; from pathlib import Path; from pyagent.manifests import files\n"
        "os.chdir(os.path.dirname(sys.argv[1]))\n"
        "if os.geteuid() == 0: os.setresuid(65534, 65534, 65534)\n"
        "try: files.read_text(Path('a.yaml'))\n"
        "except files.Unreadable as error: print(error)"
    )
    result = subprocess.run(
        [sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=True
    )
    assert result.stdout == "cannot be read: Permission denied\n"


def test_odd_names_of_files_stay_on_one_line(refused: Refused) -> None:
    name = "a\n\x1b[31m" + os.fsdecode(b"\xff") + ".yaml"
    assert refused(files={name: "[]"}) == [
        "a\\n\\x1b[31m\\udcff.yaml: document 1: must be a mapping with apiVersion and kind,"
        " not a list"
    ]
