"""`sluice agent`: run the node agent in the foreground."""

from __future__ import annotations

from pathlib import Path

import click

from pyagent.cli.options import config_option


@click.command()
@config_option
def agent(config: Path) -> None:
    """Run the node agent until SIGTERM, which leaves the data plane working.

    It works in the network namespace that it is started in. Log lines go to stderr.
    """
    from pyagent.agent.service import run
    from pyagent.manifests import load_agent_config

    run(load_agent_config(config))
