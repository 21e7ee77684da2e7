"""A directory of manifests to a snapshot. Called by `sources.directory` and the command line."""

from __future__ import annotations

from pathlib import Path

from pyagent.errors import InvalidState, Problem
from pyagent.manifests.documents import Document, parse_documents
from pyagent.manifests.files import Unreadable, manifest_files, read_manifest, show
from pyagent.manifests.kinds import read_object
from pyagent.manifests.schema import Object
from pyagent.manifests.snapshot import SnapshotBuilder
from pyagent.manifests.text import to_problems
from pyagent.model import Origin, Snapshot


def load_directory(path: Path) -> Snapshot:
    """Everything that the manifests right inside `path` say.

    Raises InvalidState with every defect of every file, in the files' order by name.
    """
    builder = SnapshotBuilder()
    problems: list[Problem] = []
    for file in manifest_files(path):
        try:
            text = read_manifest(file)
        except Unreadable as error:
            problems.append(Problem(show(file), 0, "", str(error)))
            continue
        for document in parse_documents(text or ""):
            item, found = _read(document, show(file))
            problems += found
            if item is not None:
                problems += builder.add(item)
    if problems:
        raise InvalidState(tuple(problems))
    return builder.build()


def _read(document: Document, file: str) -> tuple[Object | None, list[Problem]]:
    problems = to_problems(file, document.number, document.defects)
    if document.value is None:
        return None, problems
    item, defects = read_object(document.value, Origin(file, document.number))
    return item, problems + to_problems(file, document.number, defects)
