"""Whether a snapshot can be put in force on this node, asked before anything is written.

Called by the reconciler and by `sluice plan`. What is wrong is told as problems of the documents
that ask for it, so that the last good state stays in force.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping

from pyagent.compiler import every_policy, policy_name
from pyagent.compiler.rows import Compiled
from pyagent.errors import InvalidState, Problem
from pyagent.kernel.netlink import Link
from pyagent.kernel.wiring import ALIAS
from pyagent.model import Origin, Snapshot, Workload


def _problem(origin: Origin, field: str, message: str) -> Problem:
    return Problem(origin.file, origin.document, field, message)


def check_interfaces(
    snapshot: Snapshot, links: Mapping[str, Link], obstacle: Callable[[str, Workload], str]
) -> None:
    """Raises InvalidState unless every workload's interface or namespace is there and will do.

    An interface has to be a veth whose other end is in another network namespace, since packets
    are delivered straight into that one. `obstacle` says why a workload's namespace cannot be
    wired, "" when it can; it is given the workload's key.
    """
    problems = tuple(
        problem
        for key, workload in snapshot.workloads.items()
        for problem in (
            _interface_problems(workload, links)
            if workload.netns is None
            else _namespace_problems(workload, obstacle(key, workload))
        )
    )
    if problems:
        raise InvalidState(problems)


def _namespace_problems(workload: Workload, message: str) -> Iterator[Problem]:
    if message:
        yield _problem(workload.origin, "spec.netns", message)


def _interface_problems(workload: Workload, links: Mapping[str, Link]) -> Iterator[Problem]:
    name = workload.interface or ""
    link = links.get(name)
    if link is None:
        message = f"there is no interface {name} on this node"
    elif link.kind != "veth" or link.peer_namespace is None:
        message = f"{name} is not a veth whose other end is in another network namespace"
    elif link.alias.startswith(ALIAS):
        message = f"{name} is one that Sluice has made: give the interface of a workload"
    else:
        return
    yield _problem(workload.origin, "spec.interface", message)


def check_capacity(
    snapshot: Snapshot, compiled: Compiled, needed: tuple[str, int], capacity: int
) -> InvalidState:
    """The refusal of a snapshot that would overflow a map: `needed` is that map and its rows."""
    name, rows = needed
    setting = "".join(
        part if at == 0 else part.capitalize() for at, part in enumerate(name.split("_"))
    )
    message = (
        f"map {name} would need {rows} entries and holds {capacity}: raise mapSizes.{setting} "
        "(after sluice cleanup, since a map in use keeps its size), or ask for less"
    )
    origin, field = _culprit(snapshot, compiled, name)
    return InvalidState((_problem(origin, field, message),))


def _culprit(snapshot: Snapshot, compiled: Compiled, name: str) -> tuple[Origin, str]:
    """The document with the largest part in a map's rows; for workloads' maps, the last one."""
    if name == "policy":
        policies = {policy_name(policy): policy.origin for policy in every_policy(snapshot)}
        rows = Counter(value.rule for value in compiled.policy.values())
        for number, _ in rows.most_common():
            rule = compiled.rules.get(number, "")
            origin = policies.get(rule.split(" ")[0])
            if origin is not None:
                return origin, "spec"
    if name in ("tenants", "proxies") and snapshot.tenants:
        return list(snapshot.tenants.values())[-1].origin, "spec"
    if name == "identities" and snapshot.policies:
        return list(snapshot.policies.values())[-1].origin, "spec"
    if snapshot.workloads:
        return list(snapshot.workloads.values())[-1].origin, "spec.addresses"
    return Origin("(node)", 1), ""
