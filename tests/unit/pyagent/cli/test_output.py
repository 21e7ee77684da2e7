"""How listings are printed."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from enum import Enum
from ipaddress import ip_address

import pytest
import yaml

from pyagent.cli.output import Format, emit, emit_value
from pyagent.model import Direction

LONG = "x" * 300


class Colour(Enum):
    RED = "red"


ROWS = [
    {
        "name": "shop/web",
        "address": [ip_address("10.1.0.2"), ip_address("fd00::2")],
        "ready": True,
        "labels": {"app": "web", "tier": None},
        "direction": Direction.INGRESS,
        "colour": Colour.RED,
        "revision": 0,
        "unseen": "only in json and yaml",
    },
    {"name": LONG, "address": [], "ready": False, "labels": {}, "direction": None, "revision": 12},
]
COLUMNS = ("name", "address", "ready", "labels", "direction", "revision")
PLAIN = [
    {
        "name": "shop/web",
        "address": ["10.1.0.2", "fd00::2"],
        "ready": True,
        "labels": {"app": "web", "tier": None},
        "direction": "ingress",
        "colour": "red",
        "revision": 0,
        "unseen": "only in json and yaml",
    },
    {"name": LONG, "address": [], "ready": False, "labels": {}, "direction": None, "revision": 12},
]


def test_table_in_a_pipe_is_plain_and_never_cut(capsys: pytest.CaptureFixture[str]) -> None:
    emit(ROWS, COLUMNS, Format.TABLE)
    heading, first, second = capsys.readouterr().out.splitlines()
    assert heading.split() == ["NAME", "ADDRESS", "READY", "LABELS", "DIRECTION", "REVISION"]
    fields = ["shop/web", "10.1.0.2,fd00::2", "yes", "app=web,tier=-", "ingress", "0"]
    assert first.split() == fields
    assert second.split() == [LONG, "-", "no", "-", "-", "12"]
    assert heading.index("ADDRESS") == first.index("10.1.0.2") == len(LONG) + 2


def test_empty_table_has_its_heading(capsys: pytest.CaptureFixture[str]) -> None:
    emit([], ("map_name", "size"), Format.TABLE)
    assert capsys.readouterr().out == "MAP NAME  SIZE\n"


def test_json_has_the_whole_rows(capsys: pytest.CaptureFixture[str]) -> None:
    emit(ROWS, COLUMNS, Format.JSON)
    assert json.loads(capsys.readouterr().out) == PLAIN


def test_yaml_has_the_whole_rows(capsys: pytest.CaptureFixture[str]) -> None:
    emit(ROWS, COLUMNS, Format.YAML)
    assert yaml.safe_load(capsys.readouterr().out) == PLAIN


def test_one_value(capsys: pytest.CaptureFixture[str]) -> None:
    emit_value({"at": ip_address("::1"), "of": {3, 1}}, Format.TABLE)
    assert capsys.readouterr().out == "at: ::1\nof:\n- 1\n- 3\n"


def test_table_on_a_terminal_folds_and_keeps_brackets() -> None:
    code = (
        "from pyagent.cli.output import Format, emit;"
        "emit([{'rule': 'shop/allow ingress[0]', 'long': 'y' * 100}], ('rule', 'long'),"
        " Format.TABLE)"
    )
    terminal, child = pty.openpty()
    environment = {**os.environ, "COLUMNS": "60", "TERM": "xterm"}
    subprocess.run(
        [sys.executable, "-c", code], stdout=child, env=environment, check=True, timeout=60
    )
    os.close(child)
    shown = os.read(terminal, 65_536).decode()
    os.close(terminal)
    assert "\x1b[1m" in shown  # bold headings: this is the terminal's form
    assert "shop/allow ingress[0]" in shown
    assert shown.count("y") == 100
    assert shown.count("\n") > 2
