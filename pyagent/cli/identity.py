"""`sluice identity list`: the numbers that policy speaks of, and who has them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from ipaddress import ip_address, ip_network
from pathlib import Path

import click

from pyagent.cli.decode import Row, number_in, prefix_text, sort_key
from pyagent.cli.node import names_of, open_table, read_config, state_if_readable
from pyagent.cli.options import config_option, output_option
from pyagent.cli.output import Format, emit
from pyagent.kernel.tables import Table
from pyagent.state import WorkloadState


@click.group()
def identity() -> None:
    """Show the identities: a number for one set of labels, or for one CIDR."""


@identity.command(name="list")
@config_option
@output_option
def list_identities(config: Path, output_format: Format) -> None:
    """List the identities with the prefixes that lead to them, and the workloads that have them.

    A workload has the identity of its labels, which policies select, and each of its addresses
    has one, which is another number where a policy's ipBlock contains the address.
    """
    state_dir = read_config(config).state_dir
    prefixes = _prefixes(open_table(state_dir, "identities"))
    state = state_if_readable(state_dir)
    owners = _owners(prefixes, state.workloads if state else ())
    labels = names_of(state).identities
    numbers = {*prefixes.values(), *owners, *(state.identities if state else ())}
    by_number: defaultdict[int, list[str]] = defaultdict(list)
    for prefix, number in prefixes.items():
        by_number[number].append(prefix)
    rows: list[Row] = [
        {
            "identity": number,
            "labels": labels.get(number),
            "prefixes": by_number[number],
            "workloads": sorted(owners.get(number, ())),
        }
        for number in sorted(numbers)
    ]
    emit(rows, ("identity", "labels", "prefixes", "workloads"), output_format)


def _prefixes(table: Table) -> dict[str, int]:
    """Prefix to identity, in the order of the addresses."""
    entries = sorted(table.records(), key=lambda entry: sort_key(entry[0]))
    return {prefix_text(key): number_in(value, "identity") for key, value in entries}


def _owners(
    prefixes: Mapping[str, int], workloads: tuple[WorkloadState, ...]
) -> dict[int, set[str]]:
    owners: defaultdict[int, set[str]] = defaultdict(set)
    for workload in workloads:
        owners[workload.identity].add(workload.key)
        for address in workload.addresses:
            number = prefixes.get(str(ip_network(ip_address(address))))
            if number is not None:
                owners[number].add(workload.key)
    return owners
