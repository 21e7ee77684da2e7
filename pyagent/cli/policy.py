"""`sluice policy list|get`: the rules in force, and the rows they became in the kernel."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import click

from pyagent.cli.decode import Decoder, Row, number_in, sort_key
from pyagent.cli.node import (
    names_of,
    open_table,
    read_config,
    state_if_readable,
    state_in_force,
)
from pyagent.cli.options import config_option, output_option
from pyagent.cli.output import Format, emit
from pyagent.cli.trace import trace
from pyagent.cli.verify import verify
from pyagent.errors import SluiceError
from pyagent.kernel import abi
from pyagent.kernel.tables import Table


@click.group()
def policy() -> None:
    """Show the policy that the kernel enforces."""


policy.add_command(trace)
policy.add_command(verify)


@dataclass(slots=True)
class _InKernel:
    """What one rule's rows say together."""

    rows: int = 0
    subjects: set[int] = field(default_factory=set)
    directions: set[int] = field(default_factory=set)
    verdicts: set[int] = field(default_factory=set)


@policy.command(name="list")
@config_option
@output_option
def list_rules(config: Path, output_format: Format) -> None:
    """List the rules in force and how many rows of the kernel's policy come from each.

    A row that several rules allow is counted with one of them. A rule that selects nothing, or
    that others cover, has none.
    """
    state_dir = read_config(config).state_dir
    found = _by_rule(open_table(state_dir, "policy"))
    names = names_of(state_if_readable(state_dir))
    lists = abi.load()
    rows: list[Row] = []
    for number in sorted({*found, *names.rules}):
        rule = found.get(number, _InKernel())
        rows.append(
            {
                "rule": number,
                "name": names.rules.get(number),
                "verdicts": [
                    lists.name_of("VERDICTS", verdict) for verdict in sorted(rule.verdicts)
                ],
                "directions": [_direction(number) for number in sorted(rule.directions)],
                "rows": rule.rows,
                "subjects": [
                    {"identity": subject, "labels": names.identities.get(subject)}
                    for subject in sorted(rule.subjects)
                ],
            }
        )
    if output_format is Format.TABLE:
        rows = [{**row, "subjects": _subjects_text(row["subjects"])} for row in rows]
    emit(rows, ("rule", "name", "verdicts", "directions", "rows", "subjects"), output_format)


@policy.command()
@click.argument("key", metavar="NS/NAME")
@config_option
@output_option
def get(key: str, config: Path, output_format: Format) -> None:
    """Show the rows that come from the rules of one policy."""
    state_dir = read_config(config).state_dir
    table = open_table(state_dir, "policy")
    names = names_of(state_in_force(state_dir))
    rules = {number for number, name in names.rules.items() if name.startswith(f"{key} ")}
    if not rules:
        raise SluiceError(f"no rule of a policy {key} is in force: see sluice policy list")
    decoder = Decoder(table.layout, names)
    rows = [decoder.row(*entry) for entry in _rows_of(table, rules)]
    if output_format is Format.TABLE:
        rows = [
            {
                **decoder.cells(row),
                "subject": row["subject_name"] or row["subject"],
                "peer": row["peer_name"] or row["peer"],
                "rule": row["rule_name"].removeprefix(f"{key} "),
            }
            for row in rows
        ]
    columns = ("subject", "direction", "peer", "protocol", "ports", "verdict", "rule")
    emit(rows, columns, output_format)


def _by_rule(table: Table) -> dict[int, _InKernel]:
    found: defaultdict[int, _InKernel] = defaultdict(_InKernel)
    for key, value in table.records():
        rule = found[number_in(value, "rule")]
        rule.rows += 1
        rule.subjects.add(number_in(key, "subject"))
        rule.directions.add(number_in(key, "direction"))
        rule.verdicts.add(number_in(value, "verdict"))
    return found


def _rows_of(table: Table, rules: set[int]) -> Iterator[tuple[abi.Record, abi.Record]]:
    """The entries of some rules, by key."""
    entries = [entry for entry in table.records() if entry[1]["rule"] in rules]
    yield from sorted(entries, key=lambda entry: sort_key(entry[0]))


def _direction(number: int) -> str:
    return "egress" if number == abi.load().constants["DIRECTION_EGRESS"] else "ingress"


def _subjects_text(subjects: list[Row]) -> str:
    return "; ".join(str(subject["labels"] or subject["identity"]) for subject in subjects)
