"""The one error of this package; the agent turns it into its own."""

from __future__ import annotations


class ProxyFailure(Exception):
    """A proxy could not be started, configured or reached; `str(failure)` is one line."""
