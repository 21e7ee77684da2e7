"""The numbers that stand for identities, rules and tenants in the kernel, and who holds which.

Numbers outlive the agent: rows, flows and counters in the kernel speak of them. The compiler
takes the numbers of the revision in force and returns those of the next one; the agent writes
them down once that revision is applied, and not before, since `renew` trusts that the kernel
holds no row older than the revision it is given.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import count

from pyagent.compiler.rows import FIRST_IDENTITY
from pyagent.errors import SluiceError

FIRST_RULE = 1  # 0 is "no rule": the default deny
FIRST_TENANT = 1  # 0 is "the namespace has no Tenant"
LARGEST = 2**32 - 1

_FIRST = {"identities": FIRST_IDENTITY, "rules": FIRST_RULE, "tenants": FIRST_TENANT}


@dataclass(frozen=True, slots=True)
class Numbers:
    """Numbers in use: identities by their canonical text, rules and tenants by name."""

    identities: Mapping[str, int] = field(default_factory=dict)
    rules: Mapping[str, int] = field(default_factory=dict)
    tenants: Mapping[str, int] = field(default_factory=dict)

    def renew(
        self, identities: Iterable[str], rules: Iterable[str], tenants: Iterable[str]
    ) -> Numbers:
        """Return the numbers of the next revision, which needs exactly these names.

        A name that has a number keeps it; a new one gets the lowest free number, in the order of
        the names. A number is free once a whole revision did without it: what falls out of use
        now is still in the kernel until this revision is applied.
        """
        return Numbers(
            identities=_renew(self.identities, identities, FIRST_IDENTITY),
            rules=_renew(self.rules, rules, FIRST_RULE),
            tenants=_renew(self.tenants, tenants, FIRST_TENANT),
        )

    def to_json(self) -> dict[str, dict[str, int]]:
        """Return plain values for `json.dump`; `from_json` is the inverse."""
        return {
            "identities": dict(self.identities),
            "rules": dict(self.rules),
            "tenants": dict(self.tenants),
        }

    @staticmethod
    def from_json(obj: object) -> Numbers:
        """Read what `to_json` gave; anything else raises SluiceError with one line."""
        if not isinstance(obj, dict) or set(obj) != set(_FIRST):
            raise SluiceError(f"numbers: expected an object with exactly {', '.join(_FIRST)}")
        return Numbers(**{kind: _checked(kind, obj[kind]) for kind in _FIRST})


def _renew(held: Mapping[str, int], wanted: Iterable[str], first: int) -> Mapping[str, int]:
    names = set(wanted)
    if held.keys() == names:
        return held  # the same object: nothing to look at for whoever compares
    taken = set(held.values())
    renewed = {name: number for name, number in held.items() if name in names}
    free = (number for number in count(first) if number not in taken)
    for name in sorted(names - renewed.keys()):
        renewed[name] = next(free)
    return renewed


def _checked(kind: str, held: object) -> dict[str, int]:
    """Check one kind's mapping: text to distinct numbers in the range of the kind."""
    if not isinstance(held, dict):
        raise SluiceError(f"numbers: {kind}: expected an object of names and numbers")
    owners: dict[int, str] = {}
    for name, number in held.items():
        if not isinstance(name, str):
            raise SluiceError(f"numbers: {kind}: {name!r} is not text")
        if type(number) is not int or not _FIRST[kind] <= number <= LARGEST:
            raise SluiceError(
                f"numbers: {kind}: {name!r} has {number!r}, "
                f"not a number from {_FIRST[kind]} to {LARGEST}"
            )
        if number in owners:
            raise SluiceError(
                f"numbers: {kind}: {name!r} and {owners[number]!r} both have number {number}"
            )
        owners[number] = name
    return dict(held)
