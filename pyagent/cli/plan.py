"""`sluice plan`: what a directory of manifests would change on this node."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from pyagent.cli.options import config_option, output_option
from pyagent.cli.output import Format, emit


@click.command()
@click.argument("directory", type=click.Path(path_type=Path))
@config_option
@output_option
def plan(directory: Path, config: Path, output_format: Format) -> None:
    """Show the rows that DIRECTORY would add to, change in or remove from the kernel's maps.

    Changes nothing. Rows stand in the order in which the agent would write them.
    """
    from pyagent.agent.preview import preview
    from pyagent.manifests import load_agent_config, load_directory

    snapshot = load_directory(directory)
    todo, compiled = preview(load_agent_config(config), snapshot)
    emit(list(_rows(todo, compiled)), ["action", "map", "key", "value"], output_format)


def _rows(todo: Any, compiled: Any) -> Iterator[dict[str, object]]:
    for change in todo.changes:
        for key, value in change.put.items():
            yield {
                "action": "put",
                "map": change.map,
                "key": _text(key, compiled),
                "value": _text(value, compiled),
            }
        for key in change.remove:
            yield {
                "action": "remove",
                "map": change.map,
                "key": _text(key, compiled),
                "value": "",
            }


def _text(value: Any, compiled: Any) -> str:
    """A key or value as one line: its fields by name, rules and identities with theirs."""
    if not hasattr(value, "_asdict"):
        return str(value)
    parts = []
    for name, field in value._asdict().items():
        text = field.name.lower() if hasattr(field, "name") else str(field)
        if name in ("subject", "peer", "identity") and field in compiled.identity_labels:
            text += f" ({compiled.identity_labels[field]})"
        if name == "rule" and field in compiled.rules:
            text += f" ({compiled.rules[field]})"
        parts.append(f"{name}={text}")
    return " ".join(parts)
