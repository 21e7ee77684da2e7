"""The policy compiler: a snapshot of the desired state in, rows of the kernel's maps out.

Pure: no I/O, clock, logging or randomness. The agent's reconciler and the commands `plan` and
`validate` call `compile_snapshot`. Callers import from here and from `rows` only.
"""

from __future__ import annotations

from pyagent.compiler.compile import NodeFacts, compile_snapshot
from pyagent.compiler.numbers import Numbers

__all__ = ["NodeFacts", "Numbers", "compile_snapshot"]
