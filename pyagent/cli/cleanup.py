"""`sluice cleanup`: take away everything that the agent has made."""

from __future__ import annotations

from pathlib import Path

import click

from pyagent.cli.options import config_option


@click.command()
@config_option
def cleanup(config: Path) -> None:
    """Remove filters, interfaces, proxies, pins and state of the configured agent.

    Traffic then flows as if Sluice had never been there. Refused while the agent runs.
    """
    from pyagent.agent.cleanup import clean_up
    from pyagent.manifests import load_agent_config

    clean_up(load_agent_config(config), click.echo)
