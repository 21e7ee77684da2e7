"""A directory of manifests to a snapshot. Called by `sources.directory` and the command line."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from pyagent.errors import InvalidState, Problem
from pyagent.manifests.documents import Document, parse_documents, split_documents
from pyagent.manifests.files import Unreadable, manifest_files, mark_of, read_manifest, show
from pyagent.manifests.kinds import read_object
from pyagent.manifests.schema import Object
from pyagent.manifests.snapshot import Ledger
from pyagent.manifests.text import to_problems
from pyagent.model import Origin, Snapshot


def load_directory(path: Path) -> Snapshot:
    """Everything that the manifests right inside `path` say.

    Raises InvalidState with every defect of every file, in the files' order by name.
    """
    return DirectoryReader(path).read()


class DirectoryReader:
    """Reads a directory again and again; what stays as it was is not parsed again."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._files: dict[Path, _File] = {}
        self._ledger = Ledger()

    def read(self) -> Snapshot:
        """See `load_directory`. Objects of unchanged documents are the same ones each time."""
        held, self._files = self._files, {}
        items: list[Object] = []
        problems: list[Problem] = []
        for path in manifest_files(self._path):
            file = self._files[path] = held.get(path) or _File(path)
            problems += file.read()
            items += file.objects
        snapshot, contradictions = self._ledger.snapshot(items)
        if problems or contradictions:
            raise InvalidState(tuple(sorted([*problems, *contradictions], key=_place)))
        return snapshot


def _place(problem: Problem) -> tuple[str, int]:
    return problem.file, problem.document


@dataclass(slots=True)
class _File:
    """One file, as it was read last. `parts` has the object of each document by its text."""

    path: Path
    objects: list[Object] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    mark: tuple[int, ...] | None = None
    text: str | None = None
    parts: dict[str, Object | None] = field(default_factory=dict)

    def read(self) -> list[Problem]:
        """Bring it to what the file says now; return what is wrong in it."""
        mark = mark_of(self.path)  # before reading: a change meanwhile is seen the next time
        if mark is not None and mark == self.mark:
            return self.problems
        self.mark = mark
        try:
            text = read_manifest(self.path) or ""
        except Unreadable as error:
            self.text, self.objects = None, []
            self.problems = [Problem(show(self.path), 0, "", str(error))]
            return self.problems
        if text != self.text:
            self.text, self.problems = text, []
            if not self._read_parts(text):
                self._read_whole(text)
        return self.problems

    def _read_parts(self, text: str) -> bool:
        """Read each document for itself; False if that doesn't do, as when one is wrong."""
        held, parts = self.parts, {}
        objects: list[Object] = []
        number = 0
        for part in split_documents(text):
            if part not in held:
                documents = parse_documents(part)
                if not documents and number == 0:
                    continue  # what stands before the first document
                if len(documents) != 1 or documents[0].defects:
                    return False
                item, problems = _read(replace(documents[0], number=number + 1), show(self.path))
                if problems:
                    return False
            else:
                item = held[part]
            number += 1
            if item is not None and item.origin.document != number:
                item = replace(item, origin=Origin(item.origin.file, number))
            parts[part] = item
            if item is not None:
                objects.append(item)
        self.parts, self.objects = parts, objects
        return True

    def _read_whole(self, text: str) -> None:
        self.objects = []
        for document in parse_documents(text):
            item, problems = _read(document, show(self.path))
            self.problems += problems
            if item is not None:
                self.objects.append(item)


def _read(document: Document, file: str) -> tuple[Object | None, list[Problem]]:
    problems = to_problems(file, document.number, document.defects)
    if document.value is None:
        return None, problems
    item, defects = read_object(document.value, Origin(file, document.number))
    return item, problems + to_problems(file, document.number, defects)
