"""The desired state as users write it: YAML manifests to checked values of `pyagent.model`.

The way of a document: `files` (bytes to text) → `documents` (text to plain values) → `kinds`
(which schema) → the schema of its kind → `snapshot` (checks between objects). Whatever is wrong
anywhere on the way becomes a `Problem`; all of them are raised together. Called by the sources
and the command line; nothing else knows YAML or pydantic.
"""

from __future__ import annotations

from pyagent.manifests.agent_config import load_agent_config
from pyagent.manifests.directory import DirectoryReader, load_directory
from pyagent.manifests.workload import dump_workload

__all__ = ["DirectoryReader", "dump_workload", "load_agent_config", "load_directory"]
