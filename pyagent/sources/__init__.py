"""Where the desired state comes from. The agent knows `base.Source` alone."""

from __future__ import annotations

from pyagent.sources.base import Source
from pyagent.sources.directory import DirectorySource

__all__ = ["DirectorySource", "Source"]
