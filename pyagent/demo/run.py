"""Tries what there is to try, and compares: attempts to rows.

Called by the command line on a world that is in force.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from pyagent.demo import places
from pyagent.demo.attempts import (
    AFTERWARDS,
    ATTEMPTS,
    FIRST_PORT,
    Attempt,
    Outcome,
    Prepared,
    prepare,
)
from pyagent.demo.report import Answer, Observation, Row, row_of
from pyagent.demo.resilience import Restart
from pyagent.demo.witness import Witness, access_log
from pyagent.demo.world import World, wait_for

Say = Callable[[str], None]

_AT_ONCE = 8
_COMMAND_ENDS = 30.0
_LOGGED_WITHIN = 5.0  # seconds; Envoy writes its log once a second
_AFTERWARDS_PORT = FIRST_PORT + 1000
_CURL_SAYS = "\n%{http_code} %{http_version} %{time_total}"


def show(world: World, say: Say) -> list[Row]:
    """Everything: the attempts, the killed agent, and what holds after its restart."""
    with Witness() as witness:
        say(f"{len(ATTEMPTS)} attempts")
        rows = [row_of(seen) for seen in observe(world, witness, ATTEMPTS, FIRST_PORT)]
        restart = Restart(world)
        say("a download, and the agent killed in the middle of it")
        rows.append(restart.download(witness))
    say("starting the agent again")
    rows.append(restart.adopt())
    with Witness() as witness:
        say(f"{len(AFTERWARDS)} attempts more")
        rows += [row_of(s) for s in observe(world, witness, AFTERWARDS, _AFTERWARDS_PORT)]
    return rows


def observe(
    world: World, witness: Witness, attempts: Sequence[Attempt], first_port: int
) -> list[Observation]:
    """Makes the attempts, several at once, and gathers what became of each."""
    prepared = [
        prepare(attempt, first_port + number, world.addresses)
        for number, attempt in enumerate(attempts)
    ]
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        answers = list(pool.map(lambda one: attempt(world, one), prepared))
    seen = [
        Observation(one.attempt, one.flow, answer, witness.event(one.flow))
        for one, answer in zip(prepared, answers, strict=True)
    ]
    return _with_log_lines(world, seen)


def attempt(world: World, prepared: Prepared) -> Answer:
    """Makes one attempt in its client's namespace."""
    namespace = world.namespace(prepared.attempt.who)
    if prepared.attempt.way.is_http:
        command = (*prepared.command, "-w", _CURL_SAYS)
        done = places.run(namespace, command, _COMMAND_ENDS)
        return _answer_of_curl(done.returncode, done.stdout, done.stderr)
    done = places.run(namespace, prepared.command, _COMMAND_ENDS)
    if done.returncode:
        return Answer(False, 0.0, error=(done.stderr.strip().splitlines() or ["?"])[-1])
    said = json.loads(done.stdout)
    return Answer(said["answered"], said["seconds"], said["client"], (), said["error"])


def _answer_of_curl(status: int, output: str, error: str) -> Answer:
    body, _, said = output.rpartition("\n")
    code, version, seconds = (*said.split(), "0", "0", "0")[:3]
    if status:
        words = error.strip().removeprefix("curl: ")
        return Answer(False, float(seconds), error=words or f"curl {status}")
    try:
        answer = json.loads(body)
        protocols = (_http(version), str(answer["protocol"]))
        client = str(answer["client"])
    except (ValueError, KeyError, TypeError):
        return Answer(False, float(seconds), error=f"HTTP {code}")
    return Answer(True, float(seconds), client, protocols)


def _http(version: str) -> str:
    """curl's number of an HTTP version as the standards write it."""
    return f"HTTP/{version.removesuffix('.0')}"


def _with_log_lines(world: World, seen: list[Observation]) -> list[Observation]:
    """Adds each attempt's access log lines, once all that were handed off have theirs."""
    expecting = {
        (str(one.flow.source), one.flow.source_port)
        for one in seen
        if one.answer.answered and one.attempt.expected is Outcome.HANDED_OFF
    }
    wait_for(lambda: expecting <= access_log(world.tenants).keys(), _LOGGED_WITHIN)
    log = access_log(world.tenants)
    return [
        replace(
            one,
            logged=tuple(
                line["protocol"]
                for line in log.get((str(one.flow.source), one.flow.source_port), ())
                if one.attempt.way.is_http
            ),
        )
        for one in seen
    ]
