"""`sluice proxy list`: how each tenant's proxy fares, also while no agent runs."""

from __future__ import annotations

from pathlib import Path

import click

from l7proxy.status import ProxyStatus, read_status
from pyagent.cli.decode import Row
from pyagent.cli.node import read_config
from pyagent.cli.options import config_option, output_option
from pyagent.cli.output import Format, emit
from pyagent.errors import ProxyError
from pyagent.proxies import proxies_directory


@click.group()
def proxy() -> None:
    """Show the tenants' proxies."""


@proxy.command(name="list")
@config_option
@output_option
def list_proxies(config: Path, output_format: Format) -> None:
    """List the proxies: process, readiness, connections, memory in bytes, restarts.

    `configuration` says whether Envoy has accepted the newest one, `problem` why it has not, or
    why the proxy is not ready.
    """
    folder = proxies_directory(read_config(config).state_dir)
    try:
        directories = sorted(path for path in folder.iterdir() if path.is_dir())
        rows = [row for directory in directories if (row := _row(directory)) is not None]
    except FileNotFoundError:
        rows = []
    except PermissionError:
        raise ProxyError(f"{folder}: permission denied: run as root") from None
    columns = (
        "tenant",
        "pid",
        "ready",
        "connections",
        "memory",
        "restarts",
        "configuration",
        "problem",
        "directory",
    )
    emit(rows, columns, output_format)


def _row(directory: Path) -> Row | None:
    """What is known of one proxy; None when it has been removed meanwhile."""
    try:
        next(directory.iterdir(), None)  # PermissionError, which read_status takes for no record
        status = read_status(str(directory))
    except FileNotFoundError:
        return None
    if status is None:
        status = ProxyStatus(
            directory.name, None, False, None, None, 0, False, "it has never been started"
        )
    return {
        "tenant": status.tenant,
        "pid": status.pid,
        "ready": status.ready,
        "connections": status.connections,
        "memory": status.memory,
        "restarts": status.restarts,
        "configuration": "accepted" if status.config_accepted else "not accepted",
        "problem": status.error,
        "directory": directory,
    }
