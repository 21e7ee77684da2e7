"""Map entries as rows of plain values: every field, and beside a number what it stands for.

Used by `map` and `policy`. Which fields there are comes from `bpf/abi.h`; this module adds what the
fields mean: which are of a list of names, which are identities, rules or tenants.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Any

from pyagent.cli.node import Names
from pyagent.errors import SluiceError
from pyagent.kernel import abi
from pyagent.kernel.abi import MapLayout, Record

Row = dict[str, Any]

_PROTOCOLS = {1: "icmp", 6: "tcp", 17: "udp", 58: "icmpv6", 132: "sctp"}
_IDENTITIES = ("identity", "subject", "peer")
# Of the fields called `flags`: the prefix of the constants in abi.h, and the rest of their names.
_FLAGS = {
    "conntrack": ("FLOW_", ("LOW_IS_ORIGINATOR", "FROM_PROXY", "REPLIED")),
    "identities": ("IDENTITY_IS_", ("NODE",)),
}
# Of a table: the column that stands for a field, and, as "", the fields that are part of it.
_REPLACED = {
    "identities": {"prefixlen": "", "address": "prefix"},
    "policy": {"prefixlen": "", "port": "ports"},
}


def number_in(record: Record, field: str) -> int:
    """The value of a field that is a number."""
    value = record[field]
    assert isinstance(value, int)
    return value


def _constants(prefix: str) -> dict[int, str]:
    return {
        number: name.removeprefix(prefix).lower()
        for name, number in abi.load().constants.items()
        if name.startswith(prefix)
    }


def _listed(macro: str) -> dict[int, str]:
    return {choice.number: choice.name.lower() for choice in abi.load().lists[macro]}


def choices(map_name: str) -> dict[str, dict[int, str]]:
    """The fields of one map whose numbers have fixed names, and those names."""
    found = {
        "verdict": _listed("VERDICTS"),
        "reason": _listed("DROP_REASONS"),
        "state": _listed("FLOW_STATES"),
        "direction": _constants("DIRECTION_"),
        "leg": _constants("LEG_"),
        "failure_mode": _constants("FAILURE_"),
        "protocol": _PROTOCOLS | ({0: "any"} if map_name == "policy" else {}),
    }
    if map_name == "stats":
        found["index"] = _listed("STATS")
    return found


def flag_names(map_name: str, flags: int) -> list[str]:
    """The names of the bits that are set, of the fields called `flags`."""
    constants = abi.load().constants
    prefix, names = _FLAGS[map_name]
    return [name.lower() for name in names if flags & constants[prefix + name]]


def ports_text(prefixlen: int, port: int) -> str:
    """The ports of a policy row: "any", one number, or FIRST-LAST."""
    bits = max(prefixlen - abi.load().constants["POLICY_PREFIX_PROTOCOL"], 0)
    if bits == 0:
        return "any"
    last = port + 2 ** (16 - bits) - 1
    return str(port) if last == port else f"{port}-{last}"


def prefix_text(key: Record) -> str:
    """The prefix that a key of `identities` stands for; in the key its length is out of 128."""
    address, prefixlen = key["address"], number_in(key, "prefixlen")
    assert isinstance(address, (IPv4Address, IPv6Address))
    if isinstance(address, IPv4Address) and prefixlen >= 96:
        return f"{address}/{prefixlen - 96}"
    wide = IPv6Address(abi.pack_address(address))
    return str(ip_network((wide, prefixlen), strict=False))


class Decoder:
    """Rows and table cells of one map's entries."""

    def __init__(self, layout: MapLayout, names: Names) -> None:
        self._map = layout.name
        self._choices = choices(layout.name)
        self._namers: dict[str, Callable[[int], object]] = {
            field: table.get for field, table in self._choices.items()
        }
        self._namers |= dict.fromkeys(_IDENTITIES, names.identities.get)
        self._namers |= {
            "rule": names.rules.get,
            "tenant": names.tenants.get,
            "ifindex": names.interfaces.get,
        }
        if layout.name in _FLAGS:
            self._namers["flags"] = lambda flags: flag_names(layout.name, flags)
        self._replaced = _REPLACED.get(layout.name, {})
        self._fields = field_names(layout.key) + field_names(layout.value)

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of a table: key fields, then value fields."""
        shown = (self._replaced.get(field, field) for field in self._fields)
        return tuple(column for column in shown if column)

    def row(self, key: Record, value: Record) -> Row:
        """One entry with all its fields; `FIELD_name` follows a field whose number has a name."""
        row: Row = {}
        for record in (key, value):
            for field, entry in record.items():
                row[field] = _plain(entry)
                if isinstance(entry, int) and field in self._namers:
                    row[f"{field}_name"] = self._namers[field](entry)
        if self._map == "policy":
            row["ports"] = ports_text(row["prefixlen"], row["port"])
        elif self._map == "identities":
            row["prefix"] = prefix_text(key)
        return row

    def cells(self, row: Row) -> Row:
        """The row as a table shows it: a name of a list instead of its number, others beside it."""
        return {column: self._cell(row, column) for column in self.columns}

    def _cell(self, row: Row, column: str) -> object:
        name = row.get(f"{column}_name")
        if column in self._choices or column == "flags":
            return row[column] if name is None else name
        return row[column] if name is None else f"{row[column]} ({name})"


def field_names(layout: abi.Layout) -> tuple[str, ...]:
    """The fields that a record has: all but the padding."""
    return tuple(field.name for field in layout.fields if not field.name.startswith("pad"))


def _plain(value: object) -> object:
    if isinstance(value, (IPv4Address, IPv6Address)):
        return str(value)
    return list(value) if isinstance(value, tuple) else value


def sort_key(record: Record) -> tuple[object, ...]:
    """Orders keys field by field, addresses by their 128 bits, a prefix's length last."""
    ordered = [
        abi.pack_address(value) if isinstance(value, (IPv4Address, IPv6Address)) else value
        for field, value in record.items()
        if field != "prefixlen"
    ]
    return (*ordered, record.get("prefixlen", 0))


def parse_key(layout: MapLayout, given: Mapping[str, str]) -> Record:
    """The key that FIELD=VALUE texts name; of an LPM trie, with its full length if none is given.

    Raises SluiceError when fields are missing or unknown, or a value is not one of its field's.
    """
    names = field_names(layout.key)
    required = [name for name in names if name != "prefixlen"]
    unknown = [name for name in given if name not in names]
    missing = [name for name in required if name not in given]
    if unknown or missing:
        wrong = f"unknown field {unknown[0]}" if unknown else f"{missing[0]} is missing"
        raise SluiceError(f"map {layout.name}: {wrong}: its key is {' '.join(required)}")
    longest = 8 * (layout.key.size - 4)
    record: Record = {"prefixlen": longest} if "prefixlen" in names else {}
    kinds = {field.name: field.kind for field in layout.key.fields}
    for name, text in given.items():
        record[name] = _parse(layout.name, name, kinds[name], text)
    try:
        layout.key.pack(record)
        if "prefixlen" in names and number_in(record, "prefixlen") > longest:
            raise OverflowError
    except (struct.error, OverflowError):
        shown = " ".join(f"{name}={text}" for name, text in given.items())
        raise SluiceError(f"map {layout.name}: {shown}: a number is out of its range") from None
    return record


def _parse(map_name: str, field: str, kind: str, text: str) -> object:
    numbers = {name: number for number, name in choices(map_name).get(field, {}).items()}
    try:
        if kind == "address":
            return ip_address(text)
        return numbers[text.lower()] if text.lower() in numbers else int(text, 0)
    except ValueError:
        expected = "an IPv4 or IPv6 address" if kind == "address" else "a number"
        if numbers:
            expected += f" or one of {', '.join(numbers)}"
        raise SluiceError(f"map {map_name}: {field} must be {expected}, not '{text}'") from None
