"""`sluice map list|dump|get`: what stands in the pinned maps, also while no agent runs."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import click

from pyagent.cli.decode import Decoder, Row, number_in, parse_key, sort_key
from pyagent.cli.node import names_of, open_table, pinned, read_config, state_if_readable
from pyagent.cli.options import config_option, output_option
from pyagent.cli.output import Format, emit, emit_value
from pyagent.errors import KernelError, SluiceError
from pyagent.kernel import abi, bpf
from pyagent.kernel.tables import Table

_EVENTS = "events"  # a ring buffer: no keys, and what is read from it is gone

map_argument = click.argument("name", metavar="NAME", type=click.Choice(list(abi.load().maps)))


@click.group(name="map")
def map_group() -> None:
    """Show the maps that the programs in the kernel work with.

    They are read from their pins: no agent has to run.
    """


@map_group.command(name="list")
@config_option
@output_option
def list_maps(config: Path, output_format: Format) -> None:
    """List the maps: layout, entries, capacity, and the kernel memory they take."""
    state_dir = read_config(config).state_dir
    rows = [_summary(state_dir, layout) for layout in abi.load().maps.values()]
    rows.append(_ring_buffer(pinned(state_dir)))
    columns = ("name", "type", "key", "value", "entries", "capacity", "bytes")
    emit(rows, columns, output_format)


@map_group.command()
@map_argument
@config_option
@output_option
def dump(name: str, config: Path, output_format: Format) -> None:
    """Show every entry of the map NAME, in the order of its keys.

    JSON and YAML have one entry a line: every field, and for a number that stands for something
    its name as FIELD_name.
    """
    state_dir = read_config(config).state_dir
    table = open_table(state_dir, name)
    decoder = Decoder(table.layout, names_of(state_if_readable(state_dir)))
    rows = (decoder.row(key, value) for key, value in _sorted_records(table))
    if output_format is Format.TABLE:
        emit((decoder.cells(row) for row in rows), decoder.columns, output_format)
    else:
        _stream(rows, output_format)


@map_group.command()
@map_argument
@click.argument("fields", metavar="FIELD=VALUE...", nargs=-1, required=True)
@config_option
@output_option
def get(name: str, fields: Sequence[str], config: Path, output_format: Format) -> None:
    """Show the entry of the map NAME at the key that FIELD=VALUE... name.

    Of a map that matches the longest prefix (identities, policy) it is the entry that matches
    best: sluice map get identities address=10.1.0.2
    """
    state_dir = read_config(config).state_dir
    key = parse_key(abi.load().maps[name], _given(fields))
    table = open_table(state_dir, name)
    value = table.get(key)
    if value is None:
        raise SluiceError(f"map {name} has no entry for {' '.join(fields)}")
    if table.layout.type == "lpm_trie":
        key = _matching(table, key)
    decoder = Decoder(table.layout, names_of(state_if_readable(state_dir)))
    row = decoder.row(key, value)
    if output_format is Format.TABLE:
        emit([decoder.cells(row)], decoder.columns, output_format)
    else:
        emit_value(row, output_format)


def count(table: Table) -> int:
    """How many entries a map has; all of them, if it is an array."""
    if table.layout.type.endswith("array"):
        return table.capacity
    return sum(1 for _ in table.map.entries())


def _summary(state_dir: Path, layout: abi.MapLayout) -> Row:
    table = open_table(state_dir, layout.name)
    return {
        "name": layout.name,
        "type": layout.type,
        "key": layout.key.name,
        "value": layout.value.name,
        "entries": count(table),
        "capacity": table.capacity,
        "bytes": _memory(table.map.fd),
    }


def _ring_buffer(pins: Path) -> Row:
    row = {"name": _EVENTS, "type": "ringbuf", "key": None, "value": "event"}
    try:
        ring = bpf.Map(bpf.open_pin(pins / _EVENTS))
    except OSError as error:
        raise KernelError(f"{pins / _EVENTS}: cannot be opened: {error.strerror}") from None
    return {**row, "entries": None, "capacity": None, "bytes": _memory(ring.fd)}


def _memory(fd: int) -> int | None:
    """Bytes of kernel memory that a map takes (proc(5), /proc/pid/fdinfo: memlock)."""
    for line in Path(f"/proc/self/fdinfo/{fd}").read_text().splitlines():
        name, _, number = line.partition(":")
        if name == "memlock":
            return int(number)
    return None


def _sorted_records(table: Table) -> Iterator[tuple[abi.Record, abi.Record]]:
    """All entries by key. Only bytes are kept for the sorting: a map may have many entries."""
    unpack = table.layout.key.unpack
    for key, value in sorted(table.map.entries(), key=lambda entry: sort_key(unpack(entry[0]))):
        yield unpack(key), table.record(value)


def _stream(rows: Iterator[Row], output_format: Format) -> None:
    """Write rows one a line as they come. JSON on one line is a YAML flow mapping as well."""
    as_json = output_format is Format.JSON
    empty = True
    for row in rows:
        text = json.dumps(row, ensure_ascii=False)
        if as_json:
            sys.stdout.write(f"{'[' if empty else ','}\n{text}")
        else:
            sys.stdout.write(f"- {text}\n")
        empty = False
    if empty:
        sys.stdout.write("[]\n")
    elif as_json:
        sys.stdout.write("\n]\n")


def _given(fields: Sequence[str]) -> dict[str, str]:
    given: dict[str, str] = {}
    for text in fields:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise click.BadParameter(f"'{text}' is not FIELD=VALUE", param_hint="FIELD=VALUE")
        if name in given:
            raise click.BadParameter(f"{name} is given twice", param_hint="FIELD=VALUE")
        given[name] = value
    return given


def _matching(table: Table, wanted: abi.Record) -> abi.Record:
    """The key of the longest prefix that covers `wanted`; the kernel tells only its value."""
    pack, bits = table.layout.key.pack, 8 * (table.layout.key.size - 4)
    target = int.from_bytes(pack(wanted)[4:], "big")
    best, longest = wanted, -1
    for raw, _ in table.map.entries():
        length = int.from_bytes(raw[:4], sys.byteorder)
        covers = not (int.from_bytes(raw[4:], "big") ^ target) >> (bits - length)
        if covers and longest < length <= number_in(wanted, "prefixlen"):
            best, longest = table.layout.key.unpack(raw), length
    return best
