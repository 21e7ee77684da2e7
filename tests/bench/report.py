"""What a benchmark has found: the cases, their ratios, the JSON file and the table.

Called by every benchmark. What is compared is measured in turn, round by round in one run, so that
whatever else the machine does falls on all alike; a ratio is taken inside a round and told as the
median with the lowest and the highest round.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

ROUNDS = 7
FEWEST_PAIRS = 5

Samples = Mapping[str, Sequence[float]]


@dataclass(frozen=True, slots=True)
class Case:
    """One line of the JSON file: the value's median, lowest and highest, and its ratio to the
    case named `baseline`. Without a baseline the ratios are None and `pairs` is 0."""

    case: str
    unit: str
    value: float
    low: float
    high: float
    baseline: str | None = None
    ratio: float | None = None
    ratio_low: float | None = None
    ratio_high: float | None = None
    pairs: int = 0


def interleave(
    subjects: Mapping[str, Callable[[], Mapping[str, float]]], rounds: int = ROUNDS
) -> Mapping[str, Samples]:
    """Measures each subject in every round, the first one in turn; a round to warm up is left out.

    A subject gives a value for each unit; returned are, by unit, the samples of every subject.
    """
    names = list(subjects)
    found: dict[str, dict[str, list[float]]] = {}
    for number in range(rounds + 1):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            for unit, value in subjects[name]().items():
                taken = found.setdefault(unit, {name: [] for name in names})[name]
                if number:
                    taken.append(value)
    return found


def compare(what: str, found: Mapping[str, Samples], baseline: str) -> list[Case]:
    """A case for each unit and subject of what `interleave` found, with its ratio to `baseline`."""
    return [
        case
        for unit, samples in found.items()
        for case in _compare(
            what if len(found) == 1 else f"{what}, {unit}", unit, samples, baseline
        )
    ]


def _compare(what: str, unit: str, samples: Samples, baseline: str) -> list[Case]:
    base = samples[baseline]
    assert len(base) >= FEWEST_PAIRS, f"{what}: {len(base)} pairs"
    cases = []
    for name, values in samples.items():
        plain = single(f"{what}: {name}", unit, values)
        ratios = [one / other for one, other in zip(values, base, strict=True)]
        ratio = (f"{what}: {baseline}", median(ratios), min(ratios), max(ratios), len(ratios))
        cases.append(Case(*_first_five(plain), *ratio))
    return cases


def single(what: str, unit: str, values: Sequence[float]) -> Case:
    """A case that is compared with nothing."""
    return Case(what, unit, median(values), min(values), max(values))


def _first_five(case: Case) -> tuple[str, str, float, float, float]:
    return case.case, case.unit, case.value, case.low, case.high


class Report:
    """The cases of one benchmark; each is printed as soon as it is known."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._cases: list[Case] = []
        print(f"\n{name}: {_machine()}")
        print(f"{'case':<58} {'value':>11} {'from':>11} {'to':>11} unit, ratio to baseline")

    def add(self, *cases: Case, aim: str = "") -> None:
        """Takes cases in; `aim` says in the table what they should come to."""
        for case in cases:
            self._cases.append(case)
            print(_line(case, aim), flush=True)

    def note(self, text: str) -> None:
        """A line in the table alone: what must be known to read the figures."""
        print(f"  ({text})", flush=True)

    def write(self, folder: Path) -> Path:
        """The JSON file, NAME.json in `folder`."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{self._name}.json"
        path.write_text(json.dumps([asdict(case) for case in self._cases], indent=1) + "\n")
        print(f"{path} ({_load()})")
        return path


def _line(case: Case, aim: str) -> str:
    numbers = " ".join(f"{_number(value):>11}" for value in (case.value, case.low, case.high))
    line = f"{case.case:<58} {numbers} {case.unit}"
    if case.ratio is not None and case.baseline != case.case:
        line += f", {case.ratio:.2f} ({case.ratio_low:.2f} to {case.ratio_high:.2f})"
    return f"{line}  [aim: {aim}]" if aim else line


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _machine() -> str:
    return f"Linux {platform.release()}, {os.cpu_count()} CPUs, {_load()}"


def _load() -> str:
    return "load " + " ".join(f"{load:.1f}" for load in os.getloadavg())
