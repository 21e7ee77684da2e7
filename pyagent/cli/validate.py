"""`sluice validate DIR`: would the agent accept these manifests?"""

from __future__ import annotations

from collections.abc import Sized
from pathlib import Path

import click

from pyagent.manifests import load_directory


@click.command()
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
def validate(directory: Path) -> None:
    """Check the manifests in DIR as the agent would, and change nothing.

    Each defect is one line with file, document and field.
    """
    snapshot = load_directory(directory)
    counts = [
        _count(snapshot.namespaces, "namespace", "namespaces"),
        _count(snapshot.workloads, "workload", "workloads"),
        _count(snapshot.policies, "network policy", "network policies"),
        _count(snapshot.tenants, "tenant", "tenants"),
    ]
    if snapshot.cluster_policies:
        cluster = ("cluster network policy", "cluster network policies")
        counts.insert(3, _count(snapshot.cluster_policies, *cluster))
    click.echo(f"{directory}: valid: {', '.join(counts)}")


def _count(objects: Sized, singular: str, plural: str) -> str:
    return f"{len(objects)} {singular if len(objects) == 1 else plural}"
