"""Errors of the domain. They are raised at the edges and caught in one place, the command line.

Each carries one line for the person who has to act on it; none is ever shown with a traceback.
"""

from __future__ import annotations

from dataclasses import dataclass


class SluiceError(Exception):
    """Something was refused or failed; `str(error)` is one line that says what to do."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One defect of the desired state: where it stands and what is wrong with it.

    `document` counts from 1 inside the file, 0 meaning the whole file (or directory); `field` is
    a dotted path such as `spec.ingress[0].ports[1].port`, or "" when the whole document is meant.
    """

    file: str
    document: int
    field: str
    message: str

    def __str__(self) -> str:
        where = self.file
        if self.document:
            where += f": document {self.document}"
        if self.field:
            where += f": {self.field}"
        return f"{where}: {self.message}"


class InvalidState(SluiceError):
    """A snapshot was refused as a whole; `problems` has every defect found, in file order."""

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        super().__init__("; ".join(str(problem) for problem in problems))
        self.problems = problems


class KernelError(SluiceError):
    """The kernel refused something: a program, a map, a link."""


class ProxyError(SluiceError):
    """A tenant's proxy could not be started, configured or reached."""
