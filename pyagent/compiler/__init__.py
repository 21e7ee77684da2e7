"""The policy compiler: a snapshot of the desired state in, rows of the kernel's maps out.

Pure: no I/O, clock, logging or randomness. The agent's reconciler has a `Compiler`, which keeps
what it worked out for the next snapshot; `sluice plan` calls `compile_snapshot`, which does it
once. Callers import from here and from `rows` only.
"""

from __future__ import annotations

from pyagent.compiler.compile import Compiler, NodeFacts, compile_snapshot
from pyagent.compiler.names import every_policy, policy_name
from pyagent.compiler.numbers import Numbers

__all__ = ["Compiler", "NodeFacts", "Numbers", "compile_snapshot", "every_policy", "policy_name"]
