"""What pydantic reports, in plain words. Used by `kinds` and `agent_config`."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from typing import Annotated, Any, get_args, get_origin

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from pyagent.manifests.schema import DEFECT, DEFECT_OF_PARENT, Schema
from pyagent.manifests.text import Defect, Location, describe, quote

_WANTED = {
    "string_type": "text",
    "int_type": "a whole number",
    "bool_type": "true or false",
    "list_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
}


def defects_of(error: ValidationError, schema: type[Schema]) -> list[Defect]:
    """Every defect that the validation of a document by `schema` found, in the schema's order."""
    return [_defect(detail, schema) for detail in error.errors(include_url=False)]


def _defect(detail: ErrorDetails, schema: type[Schema]) -> Defect:
    location: Location = detail["loc"]
    if location and location[-1] == "[key]":  # pydantic: (..., the key, "[key]")
        location = location[:-2]
    kind, value = detail["type"], detail["input"]
    if kind == DEFECT:
        return Defect(location, detail["ctx"]["message"])
    if kind == DEFECT_OF_PARENT:
        return Defect(location[:-1], detail["ctx"]["message"])
    if kind == "value_error":
        return Defect(location, str(detail["ctx"]["error"]))
    if kind == "missing":
        return Defect(location, "is required")
    if kind == "extra_forbidden":
        return Defect(location[:-1], _unknown_field(str(location[-1]), location[:-1], schema))
    if kind == "literal_error":
        expected = detail["ctx"]["expected"]
        return Defect(location, f"must be {expected}, not {describe(value)}")
    if kind in _WANTED:
        wanted = f"must be {_WANTED[kind]}, not {describe(value)}"
        return Defect(location, wanted + _hint(value, kind))
    return Defect(location, f"is not valid: {describe(value)}")


def _hint(value: object, kind: str) -> str:
    if kind == "string_type" and isinstance(value, (bool, int, float)):
        return " (put it in quotes)"
    if kind == "int_type" and isinstance(value, str) and value.isdecimal():
        return " (leave out the quotes)"
    return ""


def _unknown_field(name: str, parent: Location, schema: type[Schema]) -> str:
    known = _fields_at(parent, schema)
    by_lower = {field.lower(): field for field in known}
    close = difflib.get_close_matches(name.lower(), by_lower, n=1)
    if close:
        return f"unknown field {quote(name)} (did you mean '{by_lower[close[0]]}'?)"
    return f"unknown field {quote(name)} (known: {', '.join(known)})"


def _fields_at(location: Location, schema: type[Schema]) -> list[str]:
    """The fields of the mapping at `location`, found by walking down the schema's types."""
    here: Any = schema
    for step in location:
        if isinstance(step, int):
            here = get_args(here)[0]
        else:
            fields = {field.alias: field.annotation for field in here.model_fields.values()}
            here = fields[step]
        here = next(part for part in _unwrap(here) if part is not type(None))
    return [field.alias or name for name, field in here.model_fields.items()]


def _unwrap(annotation: Any) -> Iterator[Any]:
    """The annotation without Annotated, or the members of a union."""
    origin = get_origin(annotation)
    if origin is Annotated:
        yield from _unwrap(get_args(annotation)[0])
    elif origin in (list, dict) or isinstance(annotation, type):
        yield annotation
    else:
        for part in get_args(annotation):
            yield from _unwrap(part)
