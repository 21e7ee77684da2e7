"""How every listing is printed: a table for people, JSON or YAML for programs.

A row is a mapping of plain values. A table shows the columns that the command names, JSON and
YAML the whole row. rich and yaml are imported when they are needed: most calls need neither.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from enum import Enum
from typing import Any

import click

Row = Mapping[str, Any]


class Format(Enum):
    """What `-o` accepts."""

    TABLE = "table"
    JSON = "json"
    YAML = "yaml"


def emit(rows: Iterable[Row], columns: Sequence[str], output_format: Format) -> None:
    """Print a listing on stdout.

    `columns` are keys of the rows; a table's headings are the same words. A table that goes to
    anything but a terminal is plain text of stable shape and is never cut: fields are separated
    by two or more spaces. Values may be scalars, addresses, enumerations, lists and mappings.
    """
    rows = list(rows)
    if output_format is not Format.TABLE:
        emit_value([_plain(row) for row in rows], output_format)
        return
    headings = [column.replace("_", " ").upper() for column in columns]
    cells = [[_cell(row.get(column)) for column in columns] for row in rows]
    if sys.stdout.isatty():
        _print_rich(headings, cells)
    else:
        _print_plain(headings, cells)


def emit_value(value: Any, output_format: Format) -> None:
    """Print one value, such as a single object of a `get`, as JSON or YAML (also for `table`)."""
    plain = _plain(value)
    if output_format is Format.JSON:
        click.echo(json.dumps(plain, indent=2, ensure_ascii=False))
        return
    import yaml

    click.echo(yaml.safe_dump(plain, sort_keys=False, allow_unicode=True), nl=False)


def _plain(value: Any) -> Any:
    """The value in JSON's types; what is not one of them by its text (addresses, paths)."""
    match value:
        case Enum():
            return value.name.lower() if isinstance(value.value, int) else value.value
        case None | bool() | int() | float() | str():
            return value
        case Mapping():
            return {str(_plain(key)): _plain(entry) for key, entry in value.items()}
        case set() | frozenset():
            return sorted((_plain(entry) for entry in value), key=str)
        case list() | tuple():
            return [_plain(entry) for entry in value]
        case _:
            return str(value)


def _cell(value: Any) -> str:
    """The value as one field of a table; "-" where there is nothing."""
    plain = _plain(value)
    if plain in (None, "", [], {}):
        return "-"
    match plain:
        case bool(truth):
            return "yes" if truth else "no"
        case dict(mapping):
            return ",".join(f"{key}={_cell(entry)}" for key, entry in mapping.items())
        case list(entries):
            return ",".join(_cell(entry) for entry in entries)
        case _:
            return " ".join(str(plain).split())


def _print_plain(headings: Sequence[str], cells: Sequence[Sequence[str]]) -> None:
    lines = [headings, *cells]
    widths = [max(len(line[index]) for line in lines) for index in range(len(headings))]
    for line in lines:
        padded = (field.ljust(width) for field, width in zip(line, widths, strict=True))
        click.echo("  ".join(padded).rstrip())


def _print_rich(headings: Sequence[str], cells: Sequence[Sequence[str]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        table.add_column(heading, overflow="fold")
    for line in cells:
        table.add_row(*(Text(field) for field in line))  # Text: brackets are not markup
    Console(highlight=False).print(table)
