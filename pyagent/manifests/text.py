"""How values, fields and defects are put into words. Used by everything in `manifests`.

A message is one line, whatever the manifest holds: what cannot be printed is escaped, what is
long is shortened.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from pyagent.errors import Problem

Location = tuple[str | int, ...]

_SHOWN = 60  # characters of a value that a message repeats
_PLAIN_KEY = re.compile(r"[A-Za-z0-9_-]+")


class Defect(NamedTuple):
    """What is wrong at one place of a document: keys and list indices from the top."""

    location: Location
    message: str


def one_line(text: str) -> str:
    """`text` with everything that is not printable escaped, in full length."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def shorten(text: str) -> str:
    """`text` on one line, at most 60 characters of it."""
    shown = one_line(text[: _SHOWN + 1])
    return shown if len(shown) <= _SHOWN else shown[: _SHOWN - 1] + "…"


def quote(text: str) -> str:
    """`text` shortened and between quotes."""
    return f"'{shorten(text)}'"


def describe(value: object) -> str:
    """What a manifest's value is, for the second half of "must be ..., not ..."."""
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case int() | float():
            return f"the number {value}"
        case str():
            return quote(value)
        case list():
            return "a list"
        case dict():
            return "a mapping"
    return f"a {type(value).__name__}"


def field_path(location: Location) -> str:
    """`("spec", "ports", 0, "a/b")` as `spec.ports[0]["a/b"]`."""
    path = ""
    for step in location:
        if isinstance(step, int):
            path += f"[{step}]"
        elif _PLAIN_KEY.fullmatch(step):
            path += f".{shorten(step)}" if path else shorten(step)
        else:
            path += f'["{shorten(step)}"]'
    return path


def to_problems(file: str, document: int, defects: Iterable[Defect]) -> list[Problem]:
    """The defects of one document as the user is told of them."""
    return [Problem(file, document, field_path(d.location), d.message) for d in defects]
