"""`sluice check`: can the agent run here, and what will it have to do without?"""

from __future__ import annotations

import click

from pyagent.cli.options import output_option
from pyagent.cli.output import Format, emit
from pyagent.errors import KernelError
from pyagent.kernel.probe import Status, findings


@click.command()
@output_option
def check(output_format: Format) -> None:
    """Say what this machine offers to Sluice, what it lacks, and what that costs.

    `missing` stops the agent from starting, `degraded` takes away what the last column says.
    Run it as root: the kernel answers some questions to nobody else.
    """
    found = findings()
    rows = [
        {
            "check": finding.name,
            "status": finding.status,
            "detail": finding.detail,
            "cost": finding.cost,
        }
        for finding in found
    ]
    emit(rows, ("check", "status", "detail", "cost"), output_format)
    missing = [finding.name for finding in found if finding.status is Status.MISSING]
    if missing:
        raise KernelError(f"the agent cannot run here: {', '.join(missing)}")
