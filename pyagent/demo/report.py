"""The table's rows: what was expected of each attempt, what was seen, and why.

Pure. Called by `run`, printed by the command line. What was seen is what client, server, kernel
and proxy agree on; where they don't, the row says so and is wrong.
"""

from __future__ import annotations

from dataclasses import dataclass

from pyagent.demo.attempts import REASONS, Attempt, Flow, Outcome
from pyagent.flowevent import FlowEvent


@dataclass(frozen=True, slots=True)
class Answer:
    """What the client got. `client` is its address as the server saw it, `protocols` what curl
    and the server say they spoke; None and () where nobody can tell."""

    answered: bool
    seconds: float
    client: str | None = None
    protocols: tuple[str, ...] = ()
    error: str = ""


@dataclass(frozen=True, slots=True)
class Observation:
    """An attempt, and all that is known of it; `logged`: the protocols in its access log lines."""

    attempt: Attempt
    flow: Flow
    answer: Answer
    event: FlowEvent | None
    logged: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the table."""

    who: str
    whom: str
    what: str
    expected: str
    seen: str
    why: str
    seconds: float
    ok: bool


def row_of(seen: Observation) -> Row:
    """The row of an attempt."""
    attempt = seen.attempt
    outcome = outcome_of(seen)
    text = outcome.value if isinstance(outcome, Outcome) else outcome
    return Row(
        who=attempt.who,
        whom=attempt.whom,
        what=attempt.what,
        expected=attempt.expected.value,
        seen=text,
        why=why(seen),
        seconds=seen.answer.seconds,
        ok=outcome is attempt.expected,
    )


def outcome_of(seen: Observation) -> Outcome | str:
    """The outcome, or words for one that there should not be."""
    answer, event = seen.answer, seen.event
    if not answer.answered:
        denied = REASONS.get(event.reason) if event is not None else None
        return denied or f"no answer ({answer.error})"
    if event is None:
        return "an answer, but no event"
    if event.type == "drop":
        return "an answer, but dropped"
    outcome = {"allow": Outcome.PASSED, "handoff": Outcome.HANDED_OFF}.get(event.verdict)
    return _contradiction(seen, outcome) or outcome or event.verdict


def _contradiction(seen: Observation, outcome: Outcome | None) -> str | None:
    """What server and proxy say against the outcome, None when all agree."""
    answer, way = seen.answer, seen.attempt.way.value
    source = str(seen.flow.source)
    if answer.client not in (None, source):
        return f"the server saw {answer.client}"
    if seen.attempt.way.is_http:
        if answer.protocols != (way, way):
            return f"spoke {' and '.join(answer.protocols)}"
        expected = (way,) if outcome is Outcome.HANDED_OFF else ()
        if seen.logged != expected:
            return f"{len(seen.logged)} lines in access logs"
    return None


def why(seen: Observation) -> str:
    """What the kernel gave as its reason, and what else bears it out."""
    event = seen.event
    if event is None:
        return "the kernel told of no event"
    if event.type == "drop":
        nobody = ", no rule allows it" if event.reason in REASONS else ""
        return f"drop {event.reason}" + (f", rule {event.rule}" if event.rule else nobody)
    parts = [f"rule {event.rule}" if event.rule else "no rule"]
    if event.verdict == "handoff":
        parts.append(f"proxy of {event.tenant}")
        parts.append(f"{len(seen.logged)} access log line{'' if len(seen.logged) == 1 else 's'}")
    if seen.answer.client is not None:
        parts.append(f"server saw {seen.answer.client}")
    return ", ".join(parts)
