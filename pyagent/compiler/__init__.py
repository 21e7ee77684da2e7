"""The policy compiler: a snapshot of the desired state in, rows of the kernel's maps out.

Pure: no I/O, clock, logging or randomness. The agent's reconciler and the commands `plan` and
`validate` call `compile_snapshot`. Callers import from here and from `rows` only.
"""

from __future__ import annotations

from pyagent.compiler.compile import compile_snapshot
from pyagent.compiler.names import every_policy, policy_name
from pyagent.compiler.numbers import Numbers
from pyagent.compiler.subjects import NodeFacts

__all__ = ["NodeFacts", "Numbers", "compile_snapshot", "every_policy", "policy_name"]
