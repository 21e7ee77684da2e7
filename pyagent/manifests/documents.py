"""YAML text to documents of plain values: dict, list, str, int, float, bool, None.

Called by `files`' readers, `directory` and `agent_config`. It works on the parser's events: the
C loader's own composer recurses without a bound, so a hostile file ends the process, and it
neither sees keys given twice nor bounds what aliases blow up to.

Plain scalars are read as Kubernetes reads them (YAML 1.1 booleans and integers), except that
there are no base-60 numbers, which would eat IPv6 addresses, and no dates.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NoReturn

import yaml
from yaml.events import (
    AliasEvent,
    CollectionEndEvent,
    CollectionStartEvent,
    DocumentEndEvent,
    DocumentStartEvent,
    Event,
    MappingEndEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
)

from pyagent.manifests.text import Defect, Location, describe, quote, shorten

MAX_DEPTH = 64  # levels of nesting; no kind needs a quarter of it
MAX_ALIASED = 100_000  # values that the aliases of one document may stand for

_TAG = "tag:yaml.org,2002:"
_CONSTANTS: dict[str, bool | None] = {
    form: value
    for words, value in (
        ("null", None),
        ("true yes on", True),
        ("false no off", False),
    )
    for word in words.split()
    for form in (word, word.capitalize(), word.upper())
}
_CONSTANTS |= {"": None, "~": None}
_INTEGER = re.compile(
    r"[-+]?(?:0b[01][01_]*|0x[0-9a-fA-F][0-9a-fA-F_]*|0o?[0-7][0-7_]*|0|[1-9][0-9_]*)"
)
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_SPECIAL_FLOAT = re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")
_NUMBER_LENGTH = 40  # longer ones are text: no field holds such a number
# What YAML 1.1 does not allow in a file. The parser checks it too, but ahead of where it reads.
_UNPRINTABLE = re.compile(
    "[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]"
)


_DOCUMENT_START = re.compile(r"^---(?=\s|\Z)", re.MULTILINE)
_NEEDS_CONTEXT = re.compile(r"^(?:%|\.\.\.)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Document:
    """One document of a file, counted from 1; `value` is None for an empty or unreadable one."""

    number: int
    value: object
    defects: tuple[Defect, ...] = ()


def parse_documents(text: str) -> list[Document]:
    """Every document of a file. A syntax error ends the list with a document that tells of it.

    A defect of the whole text is told by a document numbered 0.
    """
    if found := _UNPRINTABLE.search(text):
        code = f"U+{ord(found[0]):04X}"
        return [_failed(0, f"{_line_column(text, found.start())}: character {code} is not allowed")]
    documents: list[Document] = []
    events = yaml.parse(text, Loader=yaml.CSafeLoader)
    try:
        for event in events:
            if type(event) is DocumentStartEvent:
                document, more = _read_document(len(documents) + 1, events)
                documents.append(document)
                if not more:
                    break
    except yaml.MarkedYAMLError as error:
        documents.append(_failed(len(documents) + 1, _syntax_error(error)))
    return documents


def split_documents(text: str) -> list[str]:
    """The text in parts that are one document each, as far as can be told without parsing.

    A line that begins with '---' begins a document wherever it stands. What directives or '...'
    may do is left to the parser: such a text, and any other, may come as one part.
    """
    if _NEEDS_CONTEXT.search(text):
        return [text]
    starts = [found.start() for found in _DOCUMENT_START.finditer(text)]
    bounds = [0, *(start for start in starts if start > 0), len(text)]
    return [text[begin:end] for begin, end in pairwise(bounds)]


def resolve_plain(text: str) -> str | int | float | bool | None:
    """The value of an unquoted scalar."""
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    if text[0] not in "0123456789+-." or len(text) > _NUMBER_LENGTH:
        return text
    if _INTEGER.fullmatch(text):
        return _integer(text.replace("_", ""))
    if _FLOAT.fullmatch(text) or _SPECIAL_FLOAT.fullmatch(text):
        return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
    return text


def _integer(text: str) -> int:
    digits = text.lstrip("+-")
    if len(digits) > 1 and digits[0] == "0" and digits[1].isdigit():
        return int(text, 8)  # YAML 1.1: a leading zero means octal
    return int(text, 0)


def _failed(number: int, message: str) -> Document:
    return Document(number, None, (Defect((), message),))


def _line_column(text: str, offset: int) -> str:
    line_start = text.rfind("\n", 0, offset) + 1
    return f"line {text.count(chr(10), 0, offset) + 1}, column {offset - line_start + 1}"


def _syntax_error(error: yaml.MarkedYAMLError) -> str:
    mark = error.problem_mark or error.context_mark
    where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
    context = f" {error.context}" if error.context else ""
    return f"{where}not valid YAML: {shorten(error.problem or 'unreadable')}{context}"


class _Refused(Exception):
    """A document cannot be read further; carries the defect."""

    def __init__(self, defect: Defect) -> None:
        self.defect = defect


def _read_document(number: int, events: Iterator[Event]) -> tuple[Document, bool]:
    """The document, and whether the one after it can be read."""
    reader = _Reader(events)
    try:
        value = reader.value(next(events), ())
    except _Refused as refused:
        return Document(number, None, (*reader.defects, refused.defect)), _skip_rest(events)
    return Document(number, value, tuple(reader.defects)), True


def _skip_rest(events: Iterator[Event]) -> bool:
    """Go on to the document's end; False if that would take the parser through deep nesting,
    where its time grows with the square of the depth."""
    depth = 0
    for event in events:
        if isinstance(event, CollectionStartEvent):
            depth += 1
        elif isinstance(event, CollectionEndEvent):
            depth -= 1
        if depth > MAX_DEPTH or isinstance(event, DocumentEndEvent):
            break
    return depth <= MAX_DEPTH


@dataclass(slots=True)
class _Reader:
    """Builds the value of one document from its events."""

    events: Iterator[Event]
    defects: list[Defect] = field(default_factory=list)
    anchors: dict[str, tuple[object, int]] = field(default_factory=dict)  # value, its size
    size: int = 0  # values so far, each alias counted as what it stands for
    aliased: int = 0  # of these, by aliases

    def value(self, event: Event, at: Location) -> object:
        """The value that begins with `event`; reads on to its end."""
        if isinstance(event, AliasEvent):
            return self._alias(event, at)
        before = self.size
        self.size += 1
        value: object
        if isinstance(event, ScalarEvent):
            value = self._scalar(event, at)
        else:
            assert isinstance(event, CollectionStartEvent)
            value = self._collection(event, at)
        if event.anchor is not None:
            self.anchors[event.anchor] = value, self.size - before
        return value

    def _scalar(self, event: ScalarEvent, at: Location) -> object:
        plain, _ = event.implicit
        if plain and not event.style:
            return resolve_plain(event.value)
        if event.tag not in (None, "!", _TAG + "str"):
            _refuse(at, f"the YAML tag {quote(event.tag)} is not allowed")
        return event.value

    def _alias(self, event: AliasEvent, at: Location) -> object:
        if event.anchor not in self.anchors:
            _refuse(at, f"the alias {quote(f'*{event.anchor}')} refers to nothing before it")
        value, size = self.anchors[event.anchor]
        self.size += size
        self.aliased += size
        if self.aliased > MAX_ALIASED:
            _refuse(at, f"the document's aliases stand for more than {MAX_ALIASED} values")
        return value

    def _collection(self, event: CollectionStartEvent, at: Location) -> object:
        if len(at) >= MAX_DEPTH:
            _refuse(at[:4], f"nested deeper than {MAX_DEPTH} levels")
        is_list = isinstance(event, SequenceStartEvent)
        if event.tag not in (None, "!", _TAG + ("seq" if is_list else "map")):
            _refuse(at, f"the YAML tag {quote(event.tag)} is not allowed")
        return self._sequence(at) if is_list else self._mapping(at)

    def _sequence(self, at: Location) -> list[object]:
        items: list[object] = []
        while type(event := next(self.events)) is not SequenceEndEvent:
            items.append(self.value(event, (*at, len(items))))
        return items

    def _mapping(self, at: Location) -> dict[str, object]:
        items: dict[str, object] = {}
        while type(event := next(self.events)) is not MappingEndEvent:
            key = self._key(event, at)
            value = self.value(next(self.events), (*at, str(key)))
            if not isinstance(key, str):
                self.defects.append(Defect(at, f"a key must be text, not {describe(key)}"))
            elif key in items:
                self.defects.append(Defect((*at, key), "the key is given twice"))
            else:
                items[key] = value
        return items

    def _key(self, event: Event, at: Location) -> object:
        if isinstance(event, CollectionStartEvent):
            _refuse(at, "a key must be text, not a list or a mapping")
        if isinstance(event, ScalarEvent) and event.implicit[0] and event.value == "<<":
            _refuse(at, "merge keys ('<<') are not supported")
        key = self.value(event, at)
        if isinstance(key, (list, dict)):
            _refuse(at, f"a key must be text, not {describe(key)}")
        return key


def _refuse(at: Location, message: str) -> NoReturn:
    raise _Refused(Defect(at, message))
