"""The layouts of `bpf/abi.h` and the maps of `bpf/maps.h`, read from those files themselves.

Called by every reader and writer of maps and events. dissect.cstruct parses the structs, so that
no layout is written twice; `Layout` turns them into `struct` formats, which are quick enough for
a hundred thousand rows. `loader` holds these sizes against those that the compiler saw.
"""

from __future__ import annotations

import re
import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any

from dissect.cstruct import cstruct

from pyagent.bpfsource import bpf_directory
from pyagent.errors import KernelError
from pyagent.model import Address

# What a field of a record may hold, and a struct's fields by name.
Value = int | str | Address | tuple[int, ...]
Record = dict[str, Any]

_MAPPED = b"\0" * 10 + b"\xff\xff"
_TYPES = {"__u8": "B", "__u16": "H", "__u32": "I", "__u64": "Q", "__be16": "H", "__be32": "I"}
_TYPEDEFS = """
typedef uint8 __u8; typedef uint16 __u16; typedef uint32 __u32; typedef uint64 __u64;
typedef uint16 __be16; typedef uint32 __be32;
"""


def pack_address(address: Address) -> bytes:
    """16 bytes in wire order; IPv4 as IPv4-mapped IPv6 (RFC 4291, 2.5.5.2)."""
    return _MAPPED + address.packed if isinstance(address, IPv4Address) else address.packed


def unpack_address(raw: bytes) -> Address:
    """The reverse of `pack_address`."""
    return IPv4Address(raw[12:]) if raw.startswith(_MAPPED) else IPv6Address(raw)


def _swap16(number: int) -> int:
    """Between host and network order."""
    return socket.htons(number)


@dataclass(frozen=True, slots=True)
class _Field:
    name: str
    kind: str  # address, mac, be16, number, array
    count: int  # array: elements


class Layout:
    """One struct: records (`dict` by field name, padding left out) to bytes and back.

    Addresses are `ipaddress` objects, MACs are text with colons, ports are in host order, arrays
    are tuples; a field that a record lacks is 0.
    """

    def __init__(self, name: str, code: str, fields: tuple[_Field, ...]) -> None:
        self.name = name
        self.fields = fields
        self._struct = struct.Struct("=" + code)
        self.size = self._struct.size

    def pack(self, record: Mapping[str, Any]) -> bytes:
        """The record's bytes, padding zero."""
        flat: list[int | bytes] = []
        for field in self.fields:
            value = record.get(field.name, 0)
            if field.kind == "address":
                flat.append(pack_address(value) if value else bytes(16))
            elif field.kind == "mac":
                flat.append(bytes.fromhex(str(value).replace(":", "")) if value else bytes(6))
            elif field.kind == "array":
                flat.extend(value if isinstance(value, tuple) else (0,) * field.count)
            else:
                flat.append(_swap16(value) if field.kind == "be16" else value)
        return self._struct.pack(*flat)

    def unpack(self, raw: bytes) -> Record:
        """The record inside `raw`, which may be longer."""
        flat = list(self._struct.unpack_from(raw))
        record: Record = {}
        at = 0
        for field in self.fields:
            value = flat[at]
            at += 1
            if field.kind == "address":
                value = unpack_address(value)
            elif field.kind == "mac":
                value = value.hex(":")
            elif field.kind == "be16":
                value = _swap16(value)
            elif field.kind == "array":
                value = tuple(flat[at - 1 : at - 1 + field.count])
                at += field.count - 1
            if not field.name.startswith("pad"):
                record[field.name] = value
        return record


@dataclass(frozen=True, slots=True)
class MapLayout:
    """One map of `maps.h`: BCC's name of its type, and what its keys and values look like."""

    name: str
    type: str
    key: Layout
    value: Layout


@dataclass(frozen=True, slots=True)
class Choice:
    """One entry of an X-macro list."""

    name: str
    number: int
    meaning: str


@dataclass(frozen=True, slots=True)
class Abi:
    """Everything that both sides agree on; `lists` by the macro's name, such as VERDICTS."""

    version: int
    constants: Mapping[str, int]
    lists: Mapping[str, tuple[Choice, ...]]
    layouts: Mapping[str, Layout]
    maps: Mapping[str, MapLayout]

    def name_of(self, macro: str, number: int) -> str:
        """The name of a number of one list, in lower case; the number itself when unknown."""
        for choice in self.lists[macro]:
            if choice.number == number:
                return choice.name.lower()
        return str(number)


def _strip_comments(text: str) -> str:
    return re.sub(r"/\*.*?\*/", "", text, flags=re.S)


def _lists(text: str) -> dict[str, tuple[Choice, ...]]:
    joined = text.replace("\\\n", " ")
    found = {}
    for macro, body in re.findall(r"#define (\w+)\(X\)(.*)", joined):
        entries = re.findall(r'X\((\w+), (\d+)(?:, "([^"]*)")?\)', body)
        found[macro] = tuple(Choice(name, int(number), said) for name, number, said in entries)
    return found


def _layouts(text: str) -> dict[str, Layout]:
    plain = re.sub(r"^#.*(?:\\\n.*)*$", "", text.replace("\\\n", " "), flags=re.M)
    parser = cstruct()
    parser.load(_TYPEDEFS + plain, align=True)
    layouts = {}
    for name, body in re.findall(r"struct (\w+) \{(.*?)\n\};", plain, flags=re.S):
        declared = {field: kind for kind, field in re.findall(r"(\w+) (\w+)(?:\[\d+\])?;", body)}
        parsed = parser.resolve(name)
        code, fields, at = "", [], 0
        for member in parsed.__fields__:
            if member.offset != at:
                raise KernelError(f"abi.h: struct {name} has a hole before {member.name}")
            piece, field = _member(member.name, declared[member.name], len(member.type))
            code += piece
            fields.append(field)
            at = struct.calcsize("=" + code)
        if at != len(parsed):
            raise KernelError(f"abi.h: struct {name} has a hole at its end")
        layouts[name] = Layout(name, code, tuple(fields))
    return layouts


def _member(name: str, declared: str, size: int) -> tuple[str, _Field]:
    """The `struct` code of one member and how to treat it; `size` is in bytes."""
    if declared == "address":
        return "16s", _Field(name, "address", 1)
    if declared == "__u8" and size == 6 and name.endswith("mac"):
        return "6s", _Field(name, "mac", 1)
    code = _TYPES.get(declared)
    if code is None:
        raise KernelError(f"abi.h: {name} has the type {declared}, which has no code here")
    count = size // struct.calcsize("=" + code)
    if count > 1:
        return code * count, _Field(name, "array", count)
    return code, _Field(name, "be16" if declared == "__be16" else "number", 1)


def _maps(text: str, layouts: dict[str, Layout]) -> dict[str, MapLayout]:
    plain = {
        "__u32": Layout("__u32", "I", (_Field("index", "number", 1),)),
        "__u64": Layout("__u64", "Q", (_Field("value", "number", 1),)),
        "address": Layout("address", "16s", (_Field("address", "address", 1),)),
    }
    found = {}
    pattern = r'BPF_TABLE_PINNED\("(\w+)", (?:struct )?(\w+), (?:struct )?(\w+), (\w+),'
    for kind, key, value, name in re.findall(pattern, text):
        layout = plain.get(key) or layouts[key]
        found[name] = MapLayout(name, kind, layout, plain.get(value) or layouts[value])
    return found


@cache
def load(directory: Path | None = None) -> Abi:
    """The ABI of the sources in `directory`, by default those installed with this package."""
    folder = directory or bpf_directory()
    text = _strip_comments((folder / "abi.h").read_text())
    constants = {
        name: int(number) for name, number in re.findall(r"#define (\w+) (\d+)[ \t]*$", text, re.M)
    }
    layouts = _layouts(text)
    return Abi(
        version=constants["SLUICE_ABI"],
        constants=constants,
        lists=_lists(text),
        layouts=layouts,
        maps=_maps(_strip_comments((folder / "maps.h").read_text()), layouts),
    )
